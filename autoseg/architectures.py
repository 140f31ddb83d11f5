"""What a network is, without torch: its parts by name, and closed forms for the two networks that the planner counts with.

An `Architecture` says what a network is made of; how large it is (features, kernels, strides, blocks per stage) is in the
`Configuration`. `networks.body` builds any combination, in two or three dimensions, isotropic or not. Presets are TOML files in
`planners/networks/`, each a `[network]` table that states what differs from the plain U-Net: to add a network, add such a file.

The plain U-Net and its residual encoder have closed forms as well (`NETWORKS`): with them the planner searches for a size. Every
other network is traced at the sizes found (`networks.memory_estimate`), and the closed form is corrected by what the trace says.

A network of a user's own is named "module:callable": `plan --network my_package.nets:make`. It is called with a `NetworkRequest`
and returns a torch module from `(n, channels, *patch)` to logits `(n, heads, *patch)`; in training mode it may return a list of
logits, the highest resolution first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from autoseg import extensions

Block = Literal[
    "convolutions", "residual", "pre-residual", "chain", "dense", "recurrent", "multires", "convnext", "separable", "inverted",
    "pool-mixer", "shifted-mlp",
]  # fmt: skip
Down = Literal["stride", "max-pool", "convolution", "block"]
Up = Literal["transposed", "overlapping", "linear", "linear-convolution", "bottlenecked", "indices", "block"]
Topology = Literal["ladder", "nested", "full-scale", "pyramid", "single", "scores"]
Skip = Literal["plain", "gated", "gated-fine", "residual-path", "squeezed", "none"]
Join = Literal["concatenate", "add"]
Context = Literal["none", "aspp", "pyramid-pooling", "tokens", "positions", "memory"]
Attention = Literal["none", "se", "scse", "eca", "cbam"]
Activation = Literal["leaky_relu", "relu", "prelu", "elu", "gelu", "silu"]
Stem = Literal["none", "convolution", "pointwise"]
Fusion = Literal["early", "late"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a network is made of, apart from its size. The defaults are the plain U-Net of nnU-Net 2.8.1."""

    block: Block = "convolutions"  # of the encoder
    first_block: Block | Literal["same"] = "same"  # of the stages before `block_from`
    block_from: int = 0  # stage from which `block` is used
    decoder_block: Block = "convolutions"
    kernel: int = 3  # edge of a convolution where the planner convolves along an axis; elsewhere it is 1
    down: Down = "stride"
    up: Up = "transposed"
    topology: Topology = "ladder"
    skip: Skip = "plain"
    join: Join = "concatenate"
    context: Context = "none"  # after the lowest stage
    attention: Attention = "none"  # after each stage of encoder and decoder
    stem: Stem = "none"
    fusion: Fusion = "early"  # of the channels: "late": an encoder for each
    activation: Activation = "leaky_relu"
    decoder_width: int = 1  # features of a decoder stage over those of its encoder stage
    supervised: bool = True  # whether every resolution of the decoder has a head in training
    growth: int = 16  # dense: features that each layer adds
    recurrences: int = 2  # recurrent: times that a unit sees its input again
    expansion: tuple[int, ...] = (2,)  # convnext, inverted: hidden features over those of the stage, per stage; the last one goes on
    reduction: int = 16  # se, scse, cbam, squeezed: features over hidden features
    dilations: tuple[float, ...] = (0.18, 0.36, 0.55)  # aspp: shares of the map's edge
    bins: tuple[int, ...] = (1, 2, 3, 6)  # pyramid pooling: edges
    layers: int = 4  # tokens: of the transformer
    slots: int = 32  # memory
    pyramid_features: int = 4  # pyramid: features over those of the first stage
    low_level_features: int = 48  # single: of the projected skip; 0: no skip
    score_maps: int = 3  # scores: resolutions that are added up
    nested_depth: int = 4  # nested: resolutions, beside the lowest one, that have further columns
    multires_multiple: int = 8  # multires: its widths are multiples of it
    entry: str = ""  # "module:callable" of a network from elsewhere; all else but the two below is then ignored
    divides: int = 1  # entry: voxels that divide each edge of the patch
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)  # entry: texts such as "{features}" are filled in

    def blocks_at(self, stage: int) -> Block:
        """Return the block of an encoder stage."""
        return self.block if self.first_block == "same" or stage >= self.block_from else self.first_block

    def expansion_at(self, stage: int) -> int:
        """Return the expansion of a stage."""
        return self.expansion[min(stage, len(self.expansion) - 1)]


PLAIN = Architecture()


def choices() -> dict[str, tuple[str, ...]]:
    """Return the names that each part of an architecture can have."""
    kinds = get_type_hints(Architecture)
    return {part: _names(kind) for part, kind in kinds.items() if _names(kind)}


def _names(kind: Any) -> tuple[str, ...]:
    """Return the names of a `Literal`, or of a union of such; none for other types."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(name for one in get_args(kind) for name in _names(one))


@dataclass(frozen=True, kw_only=True)
class NetworkRequest:
    """What a network from elsewhere is asked for. All lists are along the axes that the network sees: two for a planar one."""

    dimensions: int  # 2 or 3
    channels: int  # of the input
    heads: int  # of the output
    patch_size: tuple[int, ...]  # voxels
    spacing: tuple[float, ...]  # mm
    strides: tuple[tuple[int, ...], ...]  # per stage
    kernel_sizes: tuple[tuple[int, ...], ...]  # per stage
    features_per_stage: tuple[int, ...]
    deep_supervision: bool

    def filled(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments in which a text such as "{channels}" is replaced by the value of that name.

        The names are those of the fields, `features` (of the first stage) and `stages` (how many).
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"features": self.features_per_stage[0], "stages": len(self.strides)}
        named = {"{" + name + "}": value for name, value in values.items()}
        return {key: named.get(value, value) if isinstance(value, str) else value for key, value in arguments.items()}


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """One convolution of a network, plain or transposed, as the counts need it. A pooling is one without weights: kernel 0."""

    inputs: int  # channels
    outputs: int  # channels
    kernel: int  # weights per pair of channels
    voxels: int  # of its output; of its input if it is transposed
    bias: bool = True
    normed: bool = True  # followed by a norm with two weights per channel


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in the encoder a block is."""

    inputs: int  # channels
    outputs: int  # channels
    kernel: int  # weights per pair of channels: 27 for 3 x 3 x 3
    voxels: int  # of its output
    strided: bool  # whether it halves an axis


@dataclass(frozen=True, kw_only=True)
class NetworkRecord:
    """A network with closed forms, described without importing it."""

    module: str  # "module:class"; built with the planned numbers of `networks.unet.UNet`
    words: str  # what its encoder is made of, for reasons: "16 residual blocks in the encoder"
    short: str  # for lists: "patch 32 x 32 x 32, batch 2, 16 features, residual"
    block: Callable[[Place], Iterator[Convolution]]  # the convolutions of one encoder block, in order
    stem: bool = False  # whether a convolution to the first width comes before the blocks


def _plain(at: Place) -> Iterator[Convolution]:
    yield Convolution(inputs=at.inputs, outputs=at.outputs, kernel=at.kernel, voxels=at.voxels)


def _residual(at: Place) -> Iterator[Convolution]:
    yield Convolution(inputs=at.inputs, outputs=at.outputs, kernel=at.kernel, voxels=at.voxels)
    yield Convolution(inputs=at.outputs, outputs=at.outputs, kernel=at.kernel, voxels=at.voxels)
    if at.inputs != at.outputs:
        yield Convolution(inputs=at.inputs, outputs=at.outputs, kernel=1, voxels=at.voxels, bias=False)
    elif at.strided:
        yield Convolution(inputs=at.inputs, outputs=at.outputs, kernel=0, voxels=at.voxels, bias=False, normed=False)


NETWORKS: Mapping[str, NetworkRecord] = {
    "unet": NetworkRecord(module="autoseg.networks.unet:UNet", words="convolutions", short="", block=_plain),
    "residual_unet": NetworkRecord(
        module="autoseg.networks.residual_unet:ResidualUNet", words="residual blocks", short="residual", block=_residual, stem=True),
}  # fmt: skip


def record(name: str) -> NetworkRecord:
    """Return the closed forms by which the planner counts a network: its own, else those of the plain U-Net."""
    return NETWORKS.get(name, NETWORKS["unet"])


def load(name: str) -> Callable[..., Any]:
    """Return the class of a network with closed forms, or a user's own callable; this imports torch.

    Raises
    ------
    SettingsError : it is a user's own, and cannot be imported
    """
    return extensions.load(NETWORKS[name].module if name in NETWORKS else name, what="network")
