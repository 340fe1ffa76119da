from sb3_dreamer.mbpo.mbpo import MBPO

__all__ = ["MBPO"]
