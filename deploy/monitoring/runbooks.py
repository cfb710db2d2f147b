"""The runbooks of docs/alerts.md as a page of Grafana: at hand where the alert is seen, and without any other address."""

import re
from pathlib import Path

from .model import Dashboard, Panel, Row

SOURCE = Path(__file__).resolve().parents[2] / "docs" / "alerts.md"
LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
"""Markdown's; on this page they would lead nowhere."""
LINE_CHARACTERS = 150
"""About as many as a line of the page holds."""


def runbooks() -> Dashboard:
    """One panel for each alert."""
    text = LINK.sub(r"\1", SOURCE.read_text(encoding="utf-8"))
    sections = [section.strip().split("\n", 1) for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]]
    return Dashboard(
        uid="pushpull-runbooks",
        title="pushpull / runbooks",
        description="What each alert means, how to confirm it, and what to do. From docs/alerts.md.",
        rows=(Row("Runbooks", tuple(_panel(name, runbook.strip()) for name, runbook in sections)),),
    )


def _panel(name: str, runbook: str) -> Panel:
    paragraphs = re.split(r"\n(?=\* |  \* |\n)", runbook)
    lines = sum(1 + len(paragraph) // LINE_CHARACTERS for paragraph in paragraphs)
    return Panel(title=name, description=runbook, kind="text", columns=24, rows=3 + lines)
