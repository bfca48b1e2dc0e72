"""What torchvision's Faster R-CNN computes: a program for an environment with PyTorch alone.

    python torchvision_rcnn.py OUT.npz

It wrote `torchvision_rcnn.npz` beside it (torch 2.13.0, torchvision 0.28.0, on a CPU).  Inputs and
random weights are in the file too, in torchvision's layouts: [N, C, H, W], kernels [out, in, H, W].
"""

import sys
from collections import OrderedDict

import numpy as np
import torch
from torchvision.models.detection import faster_rcnn, rpn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import FeaturePyramidNetwork, batched_nms, roi_align
from torchvision.ops.poolers import LevelMapper

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def make_boxes(rng, count, width, height, low=2.0, high=30.0):
    centre = rng.uniform(0, (width, height), (count, 2))
    half = rng.uniform(low / 2, high / 2, (count, 2))
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def align(rng):
    """Boxes inside, over every rim, far outside, smaller than a cell and of no area; stride 4."""
    features = rng.normal(size=(2, 3, 9, 11)).astype(np.float32)
    odd = [[0, 0, 44, 36], [-9, -8, 12, 50], [30, 20, 70, 60], [-60, 5, -30, 9], [8, 8, 9, 8.5]]
    boxes = np.concatenate([make_boxes(rng, 6, 44, 36), np.array([*odd, [5, 6, 5, 6]], np.float32)])
    inside = boxes.copy()
    inside[:, 0::2], inside[:, 1::2] = inside[:, 0::2].clip(0, 44), inside[:, 1::2].clip(0, 36)
    found = {"features": features, "boxes": boxes, "inside": inside}
    for name, samples in (("2", 2), ("3", 3), ("whole", -1)):
        for aligned in (False, True):
            used = torch.tensor(inside if samples < 0 else boxes)
            x = torch.tensor(features, requires_grad=True)
            out = roi_align(x, [used, used.flip(0)], (3, 3), 0.25, samples, aligned)
            weight = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
            (out * weight).sum().backward()
            found[f"out_{name}_{aligned}"] = out.detach().numpy()
            found[f"gradient_{name}_{aligned}"] = x.grad.numpy()
    return found


def code(rng):
    anchors, boxes = make_boxes(rng, 20, 60, 50), make_boxes(rng, 20, 60, 50)
    deltas = rng.normal(0, 4, (20, 4)).astype(np.float32)
    deltas[0, 2] = 90.0  # beyond the cut
    coder = BoxCoder(WEIGHTS)
    encoded = coder.encode([torch.tensor(boxes)], [torch.tensor(anchors)])[0]
    decoded = coder.decode(torch.tensor(deltas), [torch.tensor(anchors)])[:, 0]
    found = {"anchors": anchors, "boxes": boxes, "deltas": deltas}
    return {**found, "encoded": encoded.numpy(), "decoded": decoded.numpy()}


def suppress(rng):
    boxes, scores = make_boxes(rng, 80, 60, 50), rng.permutation(80).astype(np.float32) / 80
    classes = rng.integers(0, 2, 80)
    kept = batched_nms(torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes), 0.3)
    return {"boxes": boxes, "scores": scores, "classes": classes, "kept": kept.numpy()}


def choose_level(rng):
    boxes = make_boxes(rng, 60, 500, 500, 2, 500)
    boxes[:4] = [[0, 0, side, side] for side in (28, 56, 112, 224)]  # the borders themselves
    return {"boxes": boxes, "levels": LevelMapper(2, 5, 112, 4)([torch.tensor(boxes)]).numpy()}


def get_weights(module):
    return {f"weight.{k}": v.numpy() for k, v in module.state_dict().items()}


def shake(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0, 0.4)


@torch.no_grad()
def run_pyramid(rng):
    sides = ((19, 11), (10, 6), (5, 3), (3, 2))
    maps = [rng.normal(size=(2, 2 + i, *s)).astype(np.float32) for i, s in enumerate(sides)]
    module = FeaturePyramidNetwork([2, 3, 4, 5], 3)
    shake(module)
    out = module(OrderedDict((str(i), torch.tensor(x)) for i, x in enumerate(maps)))
    found = {f"in{i}": x for i, x in enumerate(maps)}
    return {**found, **{f"out{k}": v.numpy() for k, v in out.items()}, **get_weights(module)}


@torch.no_grad()
def run_rpn(rng):
    maps = [rng.normal(size=(2, 4, *side)).astype(np.float32) for side in ((5, 7), (3, 4))]
    module = rpn.RPNHead(4, 3)
    shake(module)
    logits, deltas = module([torch.tensor(x) for x in maps])
    deltas, logits = (x.numpy() for x in rpn.concat_box_prediction_layers(logits, deltas)[::-1])
    rows = {"logits": logits.reshape(2, -1), "deltas": deltas.reshape(2, -1, 4)}
    return {"in0": maps[0], "in1": maps[1], **rows, **get_weights(module)}


@torch.no_grad()
def propose(rng):
    """`filter_proposals` of one map of 6 x 8 cells of 8 px with two square anchors each."""
    generator = AnchorGenerator(((8, 16),), ((1.0,),))
    network = rpn.RegionProposalNetwork(
        generator,
        rpn.RPNHead(1, 2),
        0.7,
        0.3,
        256,
        0.5,
        {"training": 60, "testing": 60},
        {"training": 20, "testing": 20},
        0.6,
    ).eval()
    xs, ys = np.meshgrid((np.arange(8) + 0.5) * 8, (np.arange(6) + 0.5) * 8)
    centre = np.stack([xs, ys], -1).reshape(-1, 1, 2)
    half = np.array([[4.0], [8.0]])
    anchors = np.concatenate([centre - half, centre + half], -1).reshape(-1, 4).astype(np.float32)
    deltas = rng.normal(0, 0.4, (2, 96, 4)).astype(np.float32)
    logits = (rng.permutation(192).reshape(2, 96) / 30.0 - 3).astype(np.float32)
    one = torch.tensor(anchors)
    boxes = network.box_coder.decode(torch.tensor(deltas).reshape(-1, 4), [one, one])
    sizes = [(48, 64), (48, 64)]
    flat = torch.tensor(logits).reshape(-1, 1)
    boxes, _ = network.filter_proposals(boxes.reshape(2, -1, 4), flat, sizes, [96])
    found = {"anchors": anchors, "logits": logits, "deltas": deltas}
    return {**found, "out0": boxes[0].numpy(), "out1": boxes[1].numpy()}


@torch.no_grad()
def run_head(rng):
    regions = rng.normal(size=(7, 3, 2, 2)).astype(np.float32)
    head, predictor = faster_rcnn.TwoMLPHead(12, 8), faster_rcnn.FastRCNNPredictor(8, 3)
    shake(head)
    shake(predictor)
    logits, deltas = predictor(head(torch.tensor(regions)))
    found = {"in": regions, "logits": logits.numpy(), "deltas": deltas.numpy()}
    return {**found, **get_weights(head), **get_weights(predictor)}


@torch.no_grad()
def postprocess(rng):
    """Two classes and background; 20 proposals in each of two images of 48 x 64."""
    heads = RoIHeads(None, None, None, 0.5, 0.5, 64, 0.25, WEIGHTS, 0.1, 0.4, 9)
    proposals = [make_boxes(rng, 20, 64, 48) for _ in range(2)]
    logits = rng.normal(0, 2, (40, 3)).astype(np.float32)
    deltas = rng.normal(0, 1, (40, 12)).astype(np.float32)
    boxes, scores, labels = heads.postprocess_detections(
        torch.tensor(logits),
        torch.tensor(deltas),
        [torch.tensor(p) for p in proposals],
        [(48, 64)] * 2,
    )
    found = {"proposals": np.stack(proposals), "logits": logits, "deltas": deltas}
    for i in range(2):
        found |= {f"boxes{i}": boxes[i].numpy(), f"scores{i}": scores[i].numpy()}
        found[f"labels{i}"] = labels[i].numpy()
    return found


def match(rng):
    """Proposals to boxes: 1 from .5 on, 0 below .4, ignored between."""
    boxes, proposals = make_boxes(rng, 4, 60, 50, 15), make_boxes(rng, 60, 60, 50, 10)
    proposals[:30] = np.tile(boxes, (8, 1))[:30] + rng.normal(0, 3, (30, 4))
    low, high = np.minimum(proposals[:, :2], proposals[:, 2:] - 1), proposals[:, 2:]
    proposals = np.concatenate([low, high], axis=1).astype(np.float32)
    from torchvision.ops import box_iou

    matched = Matcher(0.5, 0.4)(box_iou(torch.tensor(boxes), torch.tensor(proposals)))
    return {"boxes": boxes, "proposals": proposals, "matched": matched.numpy()}


PARTS = {
    "align": align,
    "code": code,
    "suppress": suppress,
    "level": choose_level,
    "pyramid": run_pyramid,
    "rpn": run_rpn,
    "propose": propose,
    "head": run_head,
    "postprocess": postprocess,
    "match": match,
}


def main(out):
    arrays = {}
    for number, (name, part) in enumerate(PARTS.items()):
        torch.manual_seed(number)
        found = part(np.random.default_rng(number))
        arrays |= {f"{name}/{key}": np.asarray(value) for key, value in found.items()}
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
