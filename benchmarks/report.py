"""What was measured: as JSON for programs and as a Markdown table for people.

A suite has its own pair of files, written anew after every cell under a temporary name and then
renamed: an interruption loses at most the cell that was being measured.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq_mem.files import write_text

from .measure import MIB, Failed, Sample, speed_ratio, spread


class Report:
    """One suite's results."""

    def __init__(
        self, name: str, title: str, folder: Path, machine: dict[str, Any], command: str
    ) -> None:
        self.name, self.title, self.folder = name, title, folder
        self.machine, self.command = machine, command
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.text: list[str] = []  # Markdown that comes after the table

    def add(
        self,
        cell: Mapping[str, Any],
        unit: str,
        results: Mapping[str, list[Sample] | Failed],
        references: tuple[str, ...],
        columns: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Add a cell's rows and save.

        Args:
            cell: what was the same for all, ``{"size": "small", "length": 128}``.
            unit: what a second's speed counts.
            results: from :func:`measure.interleave`.
            references: contestants to compare everybody with.
            columns: more columns, by contestant and heading.
        """
        for name, samples in results.items():
            row: dict[str, Any] = {"cell": dict(cell), "contestant": name, "unit": unit}
            if isinstance(samples, Failed):
                row["failed"] = str(samples)
            else:
                row["speed"] = spread(sample.speed for sample in samples)
                row["peak_mib"] = round(max(sample.peak for sample in samples) / MIB)
                row["seconds"] = [round(sample.seconds, 6) for sample in samples]
                row["units"] = [sample.units for sample in samples]
                row["ratios"] = {
                    reference: speed_ratio(samples, other)
                    for reference in references
                    if isinstance(other := results.get(reference), list)
                }
                row["columns"] = dict((columns or {}).get(name, {}))
            self.rows.append(row)
        self.save()

    def note(self, text: str) -> None:
        """Add a line under the table, once."""
        if text not in self.notes:
            self.notes.append(text)
            self.save()

    def section(self, text: str) -> None:
        """Add Markdown behind the table."""
        self.text.append(text)
        self.save()

    def save(self) -> None:
        """Write both files, each whole or not at all."""
        result = {
            "suite": self.name,
            "title": self.title,
            "command": self.command,
            "machine": self.machine,
            "rows": self.rows,
            "notes": self.notes,
            "text": self.text,
        }
        for suffix, text in ((".json", json.dumps(result, indent=1)), (".md", self.markdown())):
            write_text(self.folder / (self.name + suffix), text + "\n")

    def markdown(self) -> str:
        """The whole report."""
        parts = [f"## {self.title}", self._where()]
        if self.rows:
            parts.append(self._table())
        parts += self.text
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts)

    def _where(self) -> str:
        machine = self.machine
        versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items())
        where = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads"
        if machine["gpu"]:
            where = f"{machine['gpu']}; {where}"
        lines = [f"`{self.command}`", f"{where}; {versions}."]
        if machine["environment"]:
            lines.append(
                "With " + ", ".join(f"`{k}={v}`" for k, v in machine["environment"].items()) + "."
            )
        if machine["load_before"] > 0.5 * machine["cores"]:
            lines.append(
                f"**The machine was busy before the start (load {machine['load_before']}).**"
            )
        return "  \n".join(lines)

    def _table(self) -> str:
        units = list(dict.fromkeys(row["unit"] for row in self.rows))
        cells = list(dict.fromkeys(key for row in self.rows for key in row["cell"]))
        references = list(dict.fromkeys(key for row in self.rows for key in row.get("ratios", {})))
        extra = list(dict.fromkeys(key for row in self.rows for key in row.get("columns", {})))
        heads = [*cells, "contestant", *(f"{unit}/s" for unit in units)]
        heads += [f"× {reference} [quartiles]" for reference in references]
        heads += ["peak MiB", *extra]
        words = len(cells) + 1
        lines = [_line(heads), _line(["---"] * words + ["---:"] * (len(heads) - words))]
        for row in self.rows:
            line = [str(row["cell"].get(key, "")) for key in cells] + [row["contestant"]]
            if "failed" in row:
                lines.append(_line(line + [row["failed"]] + [""] * (len(heads) - words - 1)))
                continue
            line += [_number(row["speed"]["median"]) if u == row["unit"] else "" for u in units]
            line += [_ratio(row["ratios"].get(reference)) for reference in references]
            line += [f"{row['peak_mib']:,}"]
            line += [_number(row["columns"].get(key, "")) for key in extra]
            lines.append(_line(line))
        return "\n".join(lines)


def _line(parts: list[str]) -> str:
    return "| " + " | ".join(parts) + " |"


def _number(value: Any) -> str:
    """Three significant digits; a text stays as it is."""
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ratio(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio['median']:.2f} [{ratio['q1']:.2f}, {ratio['q3']:.2f}]"
