"""Trains ConvNet + LSTM, a baseline of the I3D paper, on Kinetics-400 (arXiv 1705.07750).

    python train.py --config configs/convnet_lstm.py --config.data.root=/data/kinetics400
    python train.py --config configs/convnet_lstm.py:smoke      (short test run, embedded data)

Source: paper, section 2.1: every fifth frame of a 25 fps video, 25 frames (5 seconds) in training
and 50 at test; cross-entropy at every time step, prediction of the last time step at test; 32 GPUs;
rate 0.1, divided by 10 when the validation loss saturates; 110k steps. The paper does not give
batch size, weight decay and patience. They are chosen as for I3D here, with 6 clips per GPU. An
"epoch" of this config is 1000 steps.

Number to reach: 53.9 % top-1 from scratch (paper, Table 3, Kinetics test set); 63.3 % from ImageNet
weights.
For another batch size B, scale the rate by B / 192 and set model.bn_groups to B / 6.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "convnet_lstm"
    config.model.dtype = "bfloat16"
    config.model.bn_groups = 32
    config.model.bn_momentum = 0.999
    config.epochs = 110.0
    config.epoch_steps = 1000
    config.batch_size = 192
    config.eval_batch_size = 32
    config.data.root = "data/kinetics400"
    config.data.hint = (
        "Without data: python train.py --config configs/convnet_lstm.py:smoke runs now"
    )
    config.optim.lr = 0.1
    config.optim.schedule = "plateau"
    config.optim.patience = 5
    config.optim.weight_decay = 1e-7
    config.protocol.clips = 1
    config.protocol.frames = 50
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.25
        config.preprocessing.frames = 8
    return config
