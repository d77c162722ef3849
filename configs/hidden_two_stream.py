"""Trains hidden two-stream networks, which learn optical flow, on UCF101 (arXiv 1704.00389).

    python train.py --config configs/hidden_two_stream.py:motionnet    (first: flow, no labels)
    python train.py --config configs/hidden_two_stream.py --config.init.path=RUN
    python train.py --config configs/hidden_two_stream.py:smoke        (short test, from scratch)

Source: the authors' Caffe recipe (Zhu et al.).
MotionNet: Adam; rate 3.2e-5, halved at 100k, 200k, 250k, 300k and 350k of 400k steps; batch 16,
weight decay 4e-4; biases of the deconvolutions frozen.
End to end: SGD; rate 1e-3 for VGG-16 and a thousandth of it for MotionNet, divided by 10 after 5000
and 9500 of 16000 steps; batch 128 (16 micro-batches of 8 clips), weight decay 5e-4; the weight of
the SSIM loss is a tenth. The authors' VGG-16 starts from weights for flow; `init.parts` reads one
file for `motionnet` and one for `temporal`. Dropout is 0.9 after both hidden layers; the authors
use 0.9 and 0.8.
An "epoch" of this config is 1000 steps. Test: 25 clips, 10 crops of 256 x 340, mean of the scores.
The data are split 1; for split 2 pass `--config.data.train=train2.csv --config.data.val=test2.csv`.

Number to reach: 89.8 % with the spatial stream (split 1; the paper's number as quoted by others).
"""

import ml_collections

from configs import common

# These biases have learning rate 0 in the released code.
_FIXED = ("motionnet/deconv*/bias", "motionnet/upsample_flow*/bias")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    if argument not in (None, "", "motionnet", "smoke"):
        raise ValueError(f"argument {argument!r} after the colon: allowed are 'motionnet', 'smoke'")
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
