#!/usr/bin/env python3
"""Makes docs/terminal.svg: twindir in a real terminal (tmux), captured with its colours.

    cargo build --release && docs/terminal.py
"""

import html
import os
import pathlib
import re
import subprocess
import tempfile
import time

COLUMNS, ROWS = 88, 19
TOP = pathlib.Path(__file__).resolve().parent.parent
COLOURS = {31: "#e06c75", 32: "#98c379", 33: "#e5c07b", 34: "#61afef", 35: "#c678dd", 36: "#56b6c2"}


def tmux(*words):
    return subprocess.run(["tmux", "-L", "twindir-picture", *words], check=True,
                          capture_output=True, text=True).stdout


def capture():
    """The screen after a first copy, two saves, a rename, and a question from another shell."""
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for year in range(2019, 2027):
            (work / "photos" / str(year)).mkdir(parents=True)
            for number in range(500):
                (work / "photos" / str(year) / f"{number:04}.jpg").write_bytes(os.urandom(20_000))
        bin_dir = TOP / "target" / "release"
        tmux("new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), "-c", folder,
             f"env -i PATH={bin_dir}:/usr/bin:/bin TERM=xterm-256color PS1='$ ' bash --norc -i")
        tmux("send-keys", "clear; twindir photos backup", "Enter")
        time.sleep(8)
        (work / "photos" / "notes.txt").write_text("Lake Como\n")
        time.sleep(1)
        (work / "photos" / "2026" / "0001.jpg").write_bytes(os.urandom(31_000))
        time.sleep(1)
        (work / "photos" / "2019").rename(work / "photos" / "archive 2019")
        time.sleep(4)
        screen = tmux("capture-pane", "-e", "-p")
        tmux("kill-server")
        return screen


def spans(line):
    """A line with escape sequences as pieces of text, each with its colour."""
    colour, dim = None, False
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if not piece.startswith("\x1b"):
            if piece:
                yield piece, COLOURS.get(colour, "#7f848e" if dim else "#dcdfe4")
            continue
        for code in (int(code or 0) for code in piece[2:-1].split(";")):
            if code == 0:
                colour, dim = None, False
            elif code == 2:
                dim = True
            elif code in COLOURS:
                colour = code
            elif code == 39:
                colour = None


def svg(screen):
    width, height = 8.4, 18
    lines = screen.rstrip("\n").split("\n")
    rows = []
    for number, line in enumerate(lines):
        text = "".join(f'<tspan fill="{fill}">{html.escape(piece)}</tspan>'
                       for piece, fill in spans(line))
        rows.append(f'<text x="14" y="{26 + number * height}" xml:space="preserve">{text}</text>')
    size = (COLUMNS * width + 28, len(lines) * height + 26)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]:.0f}" height="{size[1]}">'
            '<rect width="100%" height="100%" rx="8" fill="#282c34"/>'
            '<g font-family="ui-monospace, DejaVu Sans Mono, monospace" font-size="14">'
            + "".join(rows) + "</g></svg>\n")


if __name__ == "__main__":
    (TOP / "docs" / "terminal.svg").write_text(svg(capture()))
