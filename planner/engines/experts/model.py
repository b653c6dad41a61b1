"""A mixture of experts as an engine places it: one group of units for each layer with experts."""

from __future__ import annotations

from planner.base.record import Record
from planner.model_files.moe.model import MoeModel


class ExpertModel(Record, eq=False):
    """A model whose experts an engine places; what one GPU holds of it.

    Attributes:
        moe: bytes of experts and of everything else, divided already where several GPUs share every layer.
        tp: how many GPUs share every layer.
    """

    moe: MoeModel
    tp: int = 1

    @property
    def source(self) -> str:
        """The file or folder, for messages."""
        return self.moe.source

    @property
    def architecture(self) -> str:
        """As the file calls it."""
        return self.moe.architecture

    @property
    def fingerprint(self) -> str:
        """`sha256:…` of the headers."""
        return self.moe.fingerprint

    @property
    def n_layer(self) -> int:
        """Layers of the model, with and without experts."""
        return self.moe.n_layer

    @property
    def labels(self) -> tuple[str, ...]:
        """Absolute numbers of the layers with experts, as text."""
        return tuple(str(layer.layer) for layer in self.moe.layers)

    @property
    def n_units(self) -> tuple[int, ...]:
        """Experts of each layer that has any."""
        return tuple(layer.n_expert for layer in self.moe.layers)

    @property
    def unit_bytes(self) -> tuple[int, ...]:
        """Bytes of the largest expert of each layer."""
        return tuple(int(layer.expert_bytes.max()) for layer in self.moe.layers)

    @property
    def step(self) -> int:
        """Experts are placed one by one."""
        return 1

    @property
    def context_train(self) -> int | None:
        """Not read for these models."""
        return None

    @property
    def host_only_bytes(self) -> int:
        """Not known: these engines decide it by options."""
        return 0

    @property
    def host_read_bytes(self) -> int:
        """Not known, likewise."""
        return 0

    @property
    def n_embd(self) -> int:
        """Not read for these models."""
        return 0

    @property
    def gated(self) -> bool:
        """Not asked: an expert is read as a whole."""
        return False

    @property
    def unit_rows(self) -> tuple[tuple[str, int], ...]:
        """None: an expert is read as a whole."""
        return ()

    @property
    def dense_types(self) -> tuple[tuple[str, int], ...]:
        """Not known, as what is dense depends on options."""
        return ()

    @property
    def objections(self) -> tuple[str, ...]:
        """None: a model that the engine does not take is refused when it is read."""
        return ()
