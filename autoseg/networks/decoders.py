"""The topologies of a network, from the maps of its encoder to logits: `DECODERS[name](parts, size, widths)`.

Each is called with the maps of the encoder, the highest resolution first, and with the indices of its poolings; it returns the logits,
the highest resolution first, only that one unless all resolutions are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.attention import ATTENTIONS
from autoseg.networks.parts import Parts, joined, resized, scaled
from autoseg.networks.resampling import SKIPS, UPS, PlainSkip, SkipPlace
from autoseg.networks.stages import BLOCKS, stack, width_of

if TYPE_CHECKING:
    from autoseg.networks.body import Size


class Ladder(nn.Module):
    """One step per resolution: up, joined with the skip, blocks, and a head. Source: Ronneberger et al. 2015, arXiv:1505.04597.

    Parameters
    ----------
    lowest : stage at which it ends, the full resolution by default
    headed : whether there are heads; without them the maps are returned
    """

    def __init__(self, parts: Parts, size: Size, widths: Sequence[int], *, lowest: int = 0, headed: bool = True) -> None:
        super().__init__()
        width, supervised = widths[-1], parts.architecture.supervised
        self.headed, self.steps, self.heads = headed, nn.ModuleList(), nn.ModuleList()
        stages = range(lowest, len(widths) - 1)
        for stage in reversed(stages):
            step = Step(parts, size, stage, below=width, skip=widths[stage])
            width = step.width
            self.steps.append(step)
            if headed:
                self.heads.append(parts.convolution(width, size.heads) if supervised or stage == 0 else nn.Identity())
        if headed and not stages:
            self.heads.append(parts.convolution(width, size.heads))
        self.width, self.supervised = width, supervised

    def forward(self, levels: Sequence[Tensor], indices: Sequence[Tensor], *, all_resolutions: bool) -> list[Tensor]:
        """Return the logits, or the maps without heads, the highest resolution first."""
        x, found = levels[-1], []
        if not self.steps:
            return [self.heads[0](x) if self.headed else x]
        for index, step in enumerate(self.steps):
            stage = len(levels) - 2 - index
            x = step(x, levels[stage], indices[stage] if indices else None)
            last = index == len(self.steps) - 1
            if self.headed and (last or (all_resolutions and self.supervised)):
                found.append(self.heads[index](x))
        return found[::-1] if self.headed else [x]


class Step(nn.Module):
    """One resolution upwards, to a stage; `width` is what it gives."""

    def __init__(self, parts: Parts, size: Size, stage: int, *, below: int, skip: int) -> None:
        super().__init__()
        architecture, planned, stride = parts.architecture, size.kernels[stage], size.strides[stage + 1]
        kernel, asked = parts.kernel(planned), size.features[stage] * architecture.decoder_width
        self.unpooled = architecture.up == "indices"
        self.adds, self.skips = architecture.join == "add", architecture.skip != "none" and not self.unpooled
        given = skip if self.adds or self.unpooled or architecture.skip.startswith(("gated", "squeezed")) else size.features[stage]
        self.up = UPS[architecture.up](parts, below, given, kernel=planned, stride=stride, stage=stage)
        place = SkipPlace(size.features[stage], planned, stride, length=len(size.features) - 1 - stage)
        self.skip: nn.Module = PlainSkip()
        if architecture.skip in SKIPS and (stage > 0 or architecture.skip != "gated"):  # the finest skip of the attention U-Net is open
            self.skip = SKIPS[architecture.skip](parts, skip, below, place)
        joined_width = given if self.adds or not self.skips else given + width_of(self.skip, skip)
        block = BLOCKS[architecture.decoder_block](parts, joined_width, asked, kernel=kernel, count=size.decoder_blocks[stage], stage=stage)
        self.width = width_of(block, asked)
        self.blocks = stack([block, ATTENTIONS[architecture.attention](parts, self.width, planned)])

    def forward(self, below: Tensor, skip: Tensor, indices: Tensor | None = None) -> Tensor:
        """Return `(n, width, *shape of skip)`."""
        up = self.up(below, indices) if self.unpooled else self.up(below)
        if self.skips:
            skip = self.skip(skip, below, up)
            up = up + skip if self.adds else joined([up, skip])
        y: Tensor = self.blocks(up)
        return y


class Nested(nn.Module):
    """UNet++: every node of a row sees all nodes of that row before it. Source: Zhou et al. 2018, arXiv:1807.10165; 2019, 1912.05074.

    X(i, j) = block([X(i, 0), ..., X(i, j - 1), up X(i + 1, j - 1)]). Heads on X(0, 1), X(0, 2), ..., all at the full resolution, the
    deepest first. Rows below `nested_depth` are a plain ladder: their nodes would see little more, and take memory.
    Own code; the authors' repository is under a non-commercial licence and says "patent pending".
    """

    def __init__(self, parts: Parts, size: Size, widths: Sequence[int]) -> None:
        super().__init__()
        self.depth = min(parts.architecture.nested_depth, len(widths) - 1)
        self.supervised = parts.architecture.supervised
        self.below = Ladder(parts, size, widths, lowest=self.depth, headed=False)
        rows = [*widths[: self.depth], self.below.width]
        self.ups, self.nodes, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleList()
        for column in range(1, self.depth + 1):
            for row in range(self.depth + 1 - column):
                asked, stride = size.features[row], size.strides[row + 1]
                under = rows[row + 1] if column == 1 else size.features[row + 1]
                up = UPS[parts.architecture.up](parts, under, asked, kernel=size.kernels[row], stride=stride, stage=row)
                joined_width = rows[row] + (column - 1) * asked + asked
                block = BLOCKS[parts.architecture.decoder_block](
                    parts, joined_width, asked, kernel=parts.kernel(size.kernels[row]), count=size.decoder_blocks[row], stage=row
                )
                self.ups[f"{row}-{column}"] = up
                self.nodes[f"{row}-{column}"] = stack([block, ATTENTIONS[parts.architecture.attention](parts, asked, size.kernels[row])])
            if self.supervised or column == self.depth:
                self.heads.append(parts.convolution(size.features[0], size.heads))
        if not self.depth:
            self.heads.append(parts.convolution(rows[0], size.heads))

    def forward(self, levels: Sequence[Tensor], indices: Sequence[Tensor], *, all_resolutions: bool) -> list[Tensor]:
        """Return the logits of each head, the deepest first; only that one unless asked."""
        found = [[level] for level in levels[: self.depth]]
        found.append(self.below(levels, indices, all_resolutions=False))
        for column in range(1, self.depth + 1):
            for row in range(self.depth + 1 - column):
                up = self.ups[f"{row}-{column}"](found[row + 1][column - 1])
                found[row].append(self.nodes[f"{row}-{column}"](joined([*found[row], up])))
        if not all_resolutions or not self.supervised:
            return [self.heads[-1](found[0][-1])]
        return [head(node) for head, node in zip(self.heads, found[0][1:], strict=True)][::-1]


class FullScale(nn.Module):
    """UNet 3+: every decoder node sees every resolution. Source: Huang et al. 2020, arXiv:2004.08790.

    Each is brought to the node's resolution by pooling or interpolation and to as many features as the first stage has (64 there). The
    classification that guides the network, and its loss, are left out: they need labels of whole images.
    """

    def __init__(self, parts: Parts, size: Size, widths: Sequence[int]) -> None:
        super().__init__()
        each, stages = size.features[0], len(widths)
        self.strides, self.supervised = size.strides, parts.architecture.supervised
        self.sources, self.fuse, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage in reversed(range(stages - 1)):
            kernel = parts.kernel(size.kernels[stage])
            inputs = [widths[k] if k <= stage or k == stages - 1 else each * stages for k in range(stages)]
            self.sources.append(nn.ModuleList(parts.unit(width, each, kernel=kernel) for width in inputs))
            self.fuse.append(parts.unit(each * stages, each * stages, kernel=kernel))
            self.heads.append(parts.convolution(each * stages, size.heads) if self.supervised or stage == 0 else nn.Identity())
        if stages == 1:
            self.heads.append(parts.convolution(widths[0], size.heads))

    def forward(self, levels: Sequence[Tensor], indices: Sequence[Tensor], *, all_resolutions: bool) -> list[Tensor]:
        """Return the logits, the highest resolution first."""
        if len(levels) == 1:
            return [self.heads[0](levels[0])]
        decoded, logits = {len(levels) - 1: levels[-1]}, []
        for index, (units, fuse) in enumerate(zip(self.sources, self.fuse, strict=True)):
            stage = len(levels) - 2 - index
            maps = [self._at(stage, k, decoded.get(k, levels[k])) for k in range(len(levels))]
            decoded[stage] = fuse(joined([unit(x) for unit, x in zip(cast(nn.ModuleList, units), maps, strict=True)]))
            if stage == 0 or (all_resolutions and self.supervised):
                logits.append(self.heads[index](decoded[stage]))
        return logits[::-1]

    def _at(self, stage: int, source: int, x: Tensor) -> Tensor:
        if source == stage:
            return x
        if source < stage:
            factor = scaled(self.strides, stage, source)
            return (functional.max_pool2d if x.dim() == 4 else functional.max_pool3d)(x, factor)
        factor = scaled(self.strides, source, stage)
        return resized(x, [edge * f for edge, f in zip(x.shape[2:], factor, strict=True)])


class Pyramid(nn.Module):
    """A feature pyramid whose levels are added up at the finest. Source: Lin et al. 2017, arXiv:1612.03144; Kirillov 2019, 1901.02446."""

    def __init__(self, parts: Parts, size: Size, widths: Sequence[int]) -> None:
        super().__init__()
        width = parts.architecture.pyramid_features * size.features[0]
        self.laterals = nn.ModuleList(parts.convolution(given, width) for given in widths)
        self.blocks = nn.ModuleList(parts.unit(width, width, kernel=parts.kernel(kernel, 3)) for kernel in size.kernels[: len(widths)])
        self.head = parts.convolution(width, size.heads)

    def forward(self, levels: Sequence[Tensor], indices: Sequence[Tensor], *, all_resolutions: bool) -> list[Tensor]:
        """Return the logits of the full resolution; there are no others."""
        x = summed = None
        for level, lateral, block in reversed(list(zip(levels, self.laterals, self.blocks, strict=True))):
            x = lateral(level) if x is None else lateral(level) + functional.interpolate(x, size=level.shape[2:], mode="nearest")
            y = block(x)
            summed = y if summed is None else resized(summed, y.shape[2:]) + y
        assert summed is not None
        return [self.head(summed)]


class Single(nn.Module):
    """The lowest map, once joined with one finer map, back to full resolution. Source: Chen et al. 2018, arXiv:1802.02611.

    The finer map is that of the stage whose step is nearest to 4 voxels; without `low_level_features` there is no such map, as in
    Zhao et al. 2017, arXiv:1612.01105.
    """

    def __init__(self, parts: Parts, size: Size, widths: Sequence[int]) -> None:
        super().__init__()
        steps = [max(scaled(size.strides, stage, 0)) for stage in range(len(widths))]
        self.stage = min(range(len(widths)), key=lambda stage: abs(steps[stage] - 4))
        low, width = parts.architecture.low_level_features, widths[-1]
        self.project = parts.unit(widths[self.stage], low, bias=False) if low and self.stage < len(widths) - 1 else None
        narrow = size.features[min(self.stage + 1, len(widths) - 1)]
        kernel = parts.kernel(size.kernels[self.stage], 3)
        first = parts.unit(width + (low if self.project else 0), narrow, kernel=kernel)
        self.blocks = nn.Sequential(first, parts.unit(narrow, narrow, kernel=kernel))
        self.head = parts.convolution(narrow, size.heads)

    def forward(self, levels: Sequence[Tensor], indices: Sequence[Tensor], *, all_resolutions: bool) -> list[Tensor]:
        """Return the logits of the full resolution; there are no others."""
        x = levels[-1]
        if self.project is not None:
            finer = levels[self.stage]
            x = joined([resized(x, finer.shape[2:]), self.project(finer)])
        return [resized(self.head(self.blocks(x)), levels[0].shape[2:])]


class Scores(nn.Module):
    """Scores of the lowest stages, interpolated and added. Source: Long et al. 2015, arXiv:1411.4038 (FCN-32s, 16s, 8s)."""

    def __init__(self, parts: Parts, size: Size, widths: Sequence[int]) -> None:
        super().__init__()
        self.count = min(parts.architecture.score_maps, len(widths))
        self.heads = nn.ModuleList(parts.convolution(width, size.heads) for width in widths[-self.count :])

    def forward(self, levels: Sequence[Tensor], indices: Sequence[Tensor], *, all_resolutions: bool) -> list[Tensor]:
        """Return the logits of the full resolution; there are no others."""
        scores = None
        for level, head in reversed(list(zip(levels[-self.count :], self.heads, strict=True))):
            here = head(level)
            scores = here if scores is None else here + resized(scores, here.shape[2:])
        assert scores is not None
        return [resized(scores, levels[0].shape[2:])]


DECODERS: Mapping[str, Callable[..., nn.Module]] = {
    "ladder": Ladder,
    "nested": Nested,
    "full-scale": FullScale,
    "pyramid": Pyramid,
    "single": Single,
    "scores": Scores,
}
