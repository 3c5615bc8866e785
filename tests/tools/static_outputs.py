"""Make saved outputs fit for reading: no live widgets, one line a progress bar, no paths.

A saved widget without its kernel is an error message, so only the picture of its first view stays.
What a panel needs to live on a page without a kernel goes into the cell's metadata, as `rar_live`.
A progress bar writes itself anew every second, and only its last state says something.
`make notebooks` calls this.
"""

import base64
import io
import json
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDGET = "application/vnd.jupyter.widget-view+json"
LIVE = "application/vnd.rar-live+json"  # `rar_nb.play.widgets.LIVE`
CHECKOUT = Path(__file__).resolve().parent.parent.parent
LARGE = 280_000  # bytes of a notebook from which on its pictures are stored in fewer
VERY_LARGE = 370_000  # bytes from which on they keep only 48 colours
KERNELS = re.compile(r"^\[IPKernelApp\].*\n?", re.M)  # what kernels say that a cell started
TEMPORARY = re.compile(rf"{re.escape(tempfile.gettempdir())}/tmp\w+")


def strip(notebook: dict) -> bool:
    """Remove widget views in place, and put the states of live panels into the metadata of their
    cells; whether there were any views."""
    found = notebook["metadata"].pop("widgets", None) is not None
    for cell in notebook["cells"]:
        bundles = [o["data"] for o in cell.get("outputs", []) if WIDGET in o.get("data", {})]
        if not bundles:
            continue
        found = True
        cell["metadata"].pop("rar_live", None)  # of an earlier run
        for data in bundles:
            del data[WIDGET]
            if LIVE in data:
                cell["metadata"]["rar_live"] = data.pop(LIVE)
    return found


def last_states(text: str) -> str:
    """What a terminal shows of `text` at the end: a carriage return starts the line again."""
    lines = [line.rstrip("\r").split("\r")[-1] for line in text.split("\n")]
    return "\n".join(lines)


def join_streams(outputs: list[dict]) -> list[dict]:
    """Each stream as one output, where its first part was, with bars in their last state."""
    joined: dict[str, dict] = {}
    kept = []
    for output in outputs:
        if output["output_type"] != "stream":
            kept.append(output)
            continue
        name, text = output["name"], "".join(output["text"])
        if name not in joined:
            joined[name] = dict(output, text="")
            kept.append(joined[name])
        joined[name]["text"] += text
    for output in joined.values():
        text = KERNELS.sub("", last_states(output["text"])).strip("\n")
        output["text"] = [line + "\n" for line in text.split("\n")] if text else []
    return [o for o in kept if o["output_type"] != "stream" or o["text"]]


def without_paths(outputs: list[dict], folders: list[str]) -> list[dict]:
    """Outputs with … in the place of each of `folders`, and of temporary folders."""
    text = json.dumps(outputs, ensure_ascii=False)
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(json.dumps(folder, ensure_ascii=False)[1:-1], "…")
    return json.loads(TEMPORARY.sub("…", text))


def tidy(notebook: dict, folders: list[str] = (str(CHECKOUT),)) -> bool:
    """Tidy the outputs in place; whether that changed anything."""
    changed = strip(notebook)
    for cell in notebook["cells"]:
        before = cell.get("outputs", [])
        compared = "nbval-check-output" in cell["metadata"].get("tags", [])
        after = before if compared else without_paths(join_streams(before), list(folders))
        if texts(after) != texts(before):
            cell["outputs"], changed = after, True
    return changed


def repack(png: str) -> str:
    """A PNG in base64, its pixels in fewer bytes: grey as grey, few colours as a palette."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        image.load()
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    if image.mode == "RGB":
        grey = image.convert("L")
        if grey.convert("RGB").tobytes() == image.tobytes():
            image = grey
        elif image.getcolors(256):
            image = image.quantize(256, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def few_colours(png: str) -> str:
    """A PNG in base64 with 48 colours, or with 16 shades of grey, which is enough for lines and
    letters; white stays white."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        image.load()
    if image.mode in ("RGB", "RGBA"):
        flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        octree = Image.Quantize.FASTOCTREE  # keeps rare colours, unlike the median cut
        image = flat.convert("RGB").quantize(48, octree, dither=Image.Dither.NONE)
        triples = zip(*[iter(image.getpalette())] * 3)  # the octree makes white 254
        image.putpalette([v for rgb in triples for v in ([255] * 3 if min(rgb) > 252 else rgb)])
    if image.mode == "L":
        image = image.point([round(15 * shade / 255) * 17 for shade in range(256)])
    packed = io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def shrink(notebook: dict):
    """Store the pictures of a large notebook in fewer bytes; those of a very large one lose
    shades."""
    for way in (repack, few_colours):
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                png = "".join(output.get("data", {}).get("image/png", ""))
                if png:
                    output["data"]["image/png"] = min(png, way(png), key=len)
        if len(json.dumps(notebook)) < VERY_LARGE:
            return


def texts(outputs: list[dict]) -> list:
    """Outputs in a form that does not depend on how their text is cut into lines."""
    return [dict(o, text="".join(o["text"]).strip("\n")) if "text" in o else o for o in outputs]


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        large = path.stat().st_size > LARGE
        if large:
            shrink(notebook)
        if tidy(notebook) or large:
            text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
            path.write_text(text + "\n", encoding="utf-8")
