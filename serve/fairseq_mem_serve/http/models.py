"""The models that a server holds, by language pair; loaded again while it runs."""

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..loading import load_translator
from ..translator import Translator
from .languages import NAMES
from .metrics import Metrics
from .settings import Refused, Settings

logger = logging.getLogger(__name__)

Pair = tuple[str, str]


@dataclass(frozen=True)
class Model:
    """A folder's model."""

    folder: Path
    translator: Translator

    @property
    def pair(self) -> Pair:
        """What it reads and what it writes."""
        return self.translator.source_language, self.translator.target_language


class Models:
    """One model for each pair of languages.

    Args:
        folders: what `fairseq-mem export` wrote.
        settings: threads.
        metrics: where reloads are counted.

    Raises:
        FileNotFoundError, ValueError: a folder cannot be used; in one line.
    """

    def __init__(
        self, folders: Sequence[str | os.PathLike[str]], settings: Settings, metrics: Metrics
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._models: dict[Pair, Model] = {}
        self._loading = threading.Lock()
        for folder in folders:
            model = self._load(Path(folder))
            other = self._models.setdefault(model.pair, model)
            if other is not model:
                raise ValueError(
                    f"{other.folder} and {folder} both translate {' to '.join(model.pair)}; "
                    "give one of them"
                )

    def _load(self, folder: Path) -> Model:
        translator = load_translator(
            folder,
            threads=self._settings.batch_threads,
            inter_threads=self._settings.threads,
        )
        return Model(folder, translator)

    def reload(self) -> None:
        """Load every folder again; one that cannot be used leaves the model that was there."""
        with self._loading:
            for pair, old in list(self._models.items()):
                try:
                    new = self._load(old.folder)
                    if new.pair != pair:
                        raise ValueError(
                            f"{old.folder} now translates {' to '.join(new.pair)}; start again to "
                            "serve that"
                        )
                except Exception as error:  # whatever is wrong with it, the old one serves on
                    self._metrics.reloads.labels("failed").inc()
                    logger.error(
                        "%s-%s was not loaded again, the model from before serves on: %s",
                        *pair,
                        error,
                    )
                else:
                    # of what was, requests under way keep their model
                    self._models = {**self._models, pair: new}
                    self._metrics.reloads.labels("loaded").inc()
                    logger.info("%s-%s was loaded again from %s", *pair, old.folder)

    @property
    def pairs(self) -> list[Pair]:
        """In the order in which they were given."""
        return list(self._models)

    def find(self, source: str, target: str) -> Model:
        """The model for a pair of languages; ``auto`` is the only source there is.

        Raises:
            Refused: there is none.
        """
        if source == "auto":
            sources = [s for s, t in self._models if t == target]
            if len(sources) > 1:
                raise Refused(
                    400,
                    f"source: this server detects no language; give one of {listed(sources)} "
                    "instead of 'auto'",
                )
            source = sources[0] if sources else source
        model = self._models.get((source, target))
        if model is None:
            there = listed([f"{s} to {t}" for s, t in self._models])
            raise Refused(
                400,
                f"source, target: no model for {shown(source)} to {shown(target)}; there is "
                f"{there} (GET languages lists them)",
            )
        return model

    def languages(self) -> list[dict[str, Any]]:
        """As LibreTranslate lists them: each language that can be read, with what it becomes."""
        targets: dict[str, list[str]] = {}
        for source, target in self._models:
            targets.setdefault(source, []).append(target)
        return [
            {"code": code, "name": NAMES.get(code, code), "targets": targets[code]}
            for code in targets
        ]


def listed(names: list[str]) -> str:
    """For a sentence."""
    return ", ".join(names)


def shown(text: str) -> str:
    """A short value of a request, for a message."""
    return repr(text if len(text) <= 20 else f"{text[:17]}...")
