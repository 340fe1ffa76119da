"""The little drawing that the toy tasks need, with pygame: an optional dependency, imported with the first canvas."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.error import DependencyNotInstalled

Color = tuple[int, int, int]
Point = tuple[float, float]

WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)
GREY: Color = (200, 200, 200)
RED: Color = (204, 77, 77)
BLUE: Color = (72, 112, 184)
BROWN: Color = (202, 152, 101)


class Canvas:
    """A picture in pixel coordinates, with y pointing up, shown in a window or returned as an array.

    :param size: width and height in pixels
    :param render_mode: ``"rgb_array"`` returns each frame, ``"human"`` shows it
    :param fps: frames per second that a window is held to
    """

    def __init__(self, size: tuple[int, int], render_mode: str, fps: int) -> None:
        try:
            import pygame
        except ImportError as error:
            raise DependencyNotInstalled(
                'pygame is not installed, which rendering needs: run `pip install "sb3-dreamer[render]"`.'
            ) from error
        self._pygame: Any = pygame
        self.width, self.height = size
        self._fps = fps
        self._surface = pygame.Surface(size)
        self._window: Any = None
        if render_mode == "human":
            pygame.display.init()
            self._window = pygame.display.set_mode(size)
            self._clock = pygame.time.Clock()

    def paint(self, draw: Callable[["Canvas"], None]) -> npt.NDArray[np.uint8] | None:
        """Draw one frame on white.

        :param draw: called with this canvas
        :return: RGB image, uint8 ``(height, width, 3)``, or ``None`` if the frame went to a window
        """
        self._surface.fill(WHITE)
        draw(self)
        if self._window is None:
            # pygame's arrays are (width, height, 3)
            frame: npt.NDArray[np.uint8] = np.transpose(self._pygame.surfarray.array3d(self._surface), (1, 0, 2)).copy()
            return frame
        self._window.blit(self._surface, (0, 0))
        self._pygame.event.pump()
        self._pygame.display.flip()
        self._clock.tick(self._fps)
        return None

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Fill a polygon.

        :param points: corners ``(x, y)`` in pixels
        :param color: red, green, blue
        """
        self._pygame.draw.polygon(self._surface, color, [self._flip(point) for point in points])

    def rectangle(self, low: Point, high: Point, color: Color) -> None:
        """Fill an upright rectangle.

        :param low: lower left corner in pixels
        :param high: upper right corner in pixels
        :param color: red, green, blue
        """
        self.polygon([low, (high[0], low[1]), high, (low[0], high[1])], color)

    def circle(self, center: Point, radius: float, color: Color) -> None:
        """Fill a circle.

        :param center: ``(x, y)`` in pixels
        :param radius: in pixels
        :param color: red, green, blue
        """
        self._pygame.draw.circle(self._surface, color, self._flip(center), radius)

    def rod(self, start: Point, angle: float, length: float, width: float, color: Color) -> None:
        """Fill a rod that begins at a point.

        :param start: middle of the lower end in pixels
        :param angle: radians, 0 is upright, positive leans left
        :param length: in pixels
        :param width: in pixels
        :param color: red, green, blue
        """
        along = np.array([-np.sin(angle), np.cos(angle)]) * length
        across = np.array([np.cos(angle), np.sin(angle)]) * width / 2
        corners = (across, across + along, along - across, -across)
        self.polygon([(start[0] + x, start[1] + y) for x, y in corners], color)

    def close(self) -> None:
        """Close the window, if this canvas has one. Frames returned as arrays never opened a display."""
        if self._window is not None:
            self._pygame.display.quit()
            self._window = None

    def _flip(self, point: Point) -> Point:
        return point[0], self.height - point[1]
