"""TSN, optical flow on UCF101 (Wang et al., arXiv 1608.00859).

    python -m jaxvideo flow data/ucf101                  (once: TV-L1)
    python train.py --config configs/tsn_flow.py:1 --config.init.path=WEIGHTS  (:2, :3)
    python train.py --config configs/tsn_flow.py:smoke      (runs now, from scratch)

Source: the authors' Caffe recipe: three segments of five fields, batch 128, rate 0.005 divided by
10 after 10k and 16k of 18k steps, gradients clipped to 20, dropout 0.7; the first layer, five times
as fast, starts from the mean over RGB. For warped flow: `flow --method warped_tvl1`. Crops of 256,
224 or 192 pixels each way at 13 places of 256 x 340. Partial BN: all but the first BN keep their
statistics, scale and offset. Test: 25 snippets, 10 crops each, scores before the softmax averaged.
The first weights are ImageNet's, converted or another run's; "average" spreads the first layer's
over other channels. An "epoch" is 100 steps.

Number to reach: 87.9 % (paper, split 1).
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    split, smoke = common.read_split(argument)
    config = common.default_config()
    config.model.name = "tsn_flow"
    config.model.dtype = "bfloat16"
    config.model.partial_bn = True
    config.model.dropout_rate = 0.7
    config.init.path = "weights/imagenet.safetensors"
    config.init.leave_out = ("fc/*",)
    config.init.inflate = "average"
    config.epochs = 180.0
    config.epoch_steps = 100
    config.batch_size = 128
    config.eval_batch_size = 32
    config.preprocessing.flow = "stored"
    config.augment.ratios = (1.0, 0.875, 0.75)
    config.augment.positions = "thirteen"
    common.use_split(config, "data/ucf101", split)
    config.data.hint = "Without data: python train.py --config configs/tsn_flow.py:smoke runs now"
    config.optim.lr = 0.005
    config.optim.schedule = "step"
    config.optim.milestones = (100.0, 160.0)
    config.optim.weight_decay = 5e-4
    config.optim.clip_norm = 20.0
    # As Caffe has it: biases twice, and new first layers five times as fast.
    config.optim.multipliers = (("*/bias", 2.0), ("net/conv1/*", 5.0))
    config.optim.no_decay = ("*/bias",)
    config.protocol.frames = 5
    config.optim.frozen = ("*/bn_*",)
    config.protocol.clips = 25
    config.protocol.crops = 10
    config.protocol.segments = 1
    config.protocol.starts = "centers"
    config.protocol.aggregation = "logits"
    if smoke:
        common.use_smoke(config)
        config.preprocessing.flow = "dis"
        config.preprocessing.std = (16.0, 16.0)
        config.protocol.frames = 5
        config.model.dtype = "float32"
        config.model.width = 0.25
        config.model.partial_bn = False
        config.optim.frozen = ()
        config.optim.clip_norm = 0.0
    return config
