"""What does the model see coming? A pendulum in pictures: the truth, the dream under the same actions, and the difference."""

import argparse
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from sb3_dreamer import Dreamer
from sb3_dreamer.common.video import draw_whole_windows, film_strip, open_loop_video, save_gif, side_by_side

CONTEXT, HORIZON = 5, 45

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=1500)
parser.add_argument("--out", default="runs/dream_video")
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

# To watch the dreams while the model learns: tensorboard_log=..., and learn(callback=OpenLoopVideoCallback(every=500))
model = Dreamer("CnnPolicy", "envs:ContinuousPendulumPixels-v0", pretrain_updates=20, seed=0)
model.learn(args.total_timesteps)

# Three replayed windows: the model observes 5 pictures (green), then imagines 45 from the actions alone (red)
batch = draw_whole_windows(model, windows=3, length=CONTEXT + HORIZON, context=CONTEXT)
video = open_loop_video(model.world_model, batch, CONTEXT)["obs"]
save_gif(out / "dream.gif", side_by_side(video), fps=8)
plt.imsave(out / "dream.png", film_strip(video, frames=16))
print(f"Wrote {out / 'dream.gif'} and {out / 'dream.png'}: from top to bottom truth, dream, and dream minus truth")
