"""Hidden two-stream on UCF101: flow learned inside (Zhu et al., arXiv 1704.00389).

    python train.py --config configs/hidden_two_stream.py:motionnet    (first: flow, no labels)
    python train.py --config configs/hidden_two_stream.py --config.init.path=RUN
    python train.py --config configs/hidden_two_stream.py:smoke        (runs now, from scratch)

Source: the authors' Caffe recipe. MotionNet: Adam, rate 3.2e-5, halved at 100k, 200k, 250k, 300k
and 350k of 400k steps, batch 16, decay 4e-4, deconvolutions' biases fixed. End to end: SGD, 1e-3
for VGG-16 and a thousandth of it for MotionNet, divided by 10 after 5000 and 9500 of 16000 steps,
batch 128 (8 clips, 16 times), decay 5e-4, SSIM a tenth. The authors' VGG-16 starts from weights for
flow; `init.parts` takes one file for `motionnet` and one for `temporal`. Dropout is 0.9 after both
hidden layers, theirs 0.9 and 0.8. An "epoch" is 1000 steps. Test: 25 clips, 10 crops of 256 x 340,
scores averaged. Split 1; `--config.data.train=train2.csv --config.data.val=test2.csv` for another.

Number to reach: 89.8 % with the spatial stream (paper as others quote it: split 1).
"""

import ml_collections

from configs import common

# Their learning rate is 0 in the release.
_FIXED = ("motionnet/deconv*/bias", "motionnet/upsample_flow*/bias")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    if argument not in (None, "", "motionnet", "smoke"):
        raise ValueError(f"{argument!r} after the config's colon: 'motionnet' or 'smoke'")
    config = common.default_config()
    config.model.name = "hidden_two_stream"
    config.model.dtype = "bfloat16"
    config.model.dropout_rate = 0.9
    config.model.end_to_end = argument != "motionnet"
    config.eval_batch_size = 16
    config.preprocessing.std = (255.0,) * 3
    common.use_split(config, "data/ucf101", 1)
    config.data.hint = (
        "Without data: python train.py --config configs/hidden_two_stream.py:smoke runs now"
    )
    config.optim.frozen = _FIXED
    config.optim.schedule = "step"
    config.epoch_steps = 1000
    if argument == "motionnet":
        config.model.loss_weights = (1.0, 1.0, 1.0)
        config.epochs = 400.0
        config.batch_size = 16
        config.optim.rule = "adam"
        config.optim.lr = 3.2e-5
        config.optim.milestones = (100.0, 200.0, 250.0, 300.0, 350.0)
        config.optim.gamma = 0.5
        config.optim.weight_decay = 4e-4
        config.optim.frozen = (*_FIXED, "temporal/*")
        config.protocol.clips = 1
    else:
        config.epochs = 16.0
        config.batch_size = 128
        config.optim.lr = 1e-3
        config.optim.milestones = (5.0, 9.5)
        config.optim.weight_decay = 5e-4
        config.optim.multipliers = (("motionnet/*", 1e-3),)
        config.protocol.clips = 25
        config.protocol.crops = 10
        config.protocol.aggregation = "logits"
    if argument == "smoke":
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.125
        config.optim.rule = "adam"
        config.optim.lr = 1e-3
        config.optim.multipliers = ()
    return config
