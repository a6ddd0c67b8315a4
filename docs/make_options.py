"""Write docs/options.md from conf/: every option with its first comment lines, its keys, their defaults and their comments.

Run from the repository: make docs, or .venv/bin/python -m docs.make_options. A test fails where the page and conf/ differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.conf_files import CONF, Option, group_of, lineage, read

__all__ = ["PAGE", "page"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "options.md"

GROUPS = {
    "scheduler": "The learning rate over time. s(t) is a factor of `optimizer.lr`, and t is the time in epochs, as a real number.",
    "warmup": "What comes before the schedule. A warm-up always stays in the learning rate, whatever the batch does.",
    "optimizer": "The update rule and its learning rate, `optimizer.lr`. p is a parameter, g its gradient.",
    "batch": "The batch size B over time, in examples per update, over all devices. N is the number of training examples.",
    "data": "What is trained on.",
    "task": "What is learned: the loss and the metric of the network of `model`.",
    "model": "The network.",
    "module": "A whole LightningModule in place of `task` and `model`.",
    "trainer": "Devices, precision, limits: keys of Lightning's Trainer.",
    "callbacks": "What watches the training and saves it. `python train.py callbacks.best=null` leaves a single one out.",
    "early_stopping": "A stop before the last epoch, in addition to the callbacks above.",
    "averaging": "An average of the weights, in addition to the callbacks above.",
    "logger": "Where the numbers go beside the CSV files. `python train.py logger=[tensorboard,csv]` has several at once.",
    "branches": "What `branches.py` does with a training.",
    "range_test": "What `range_test.py` does with a training.",
    "recommend": "What `recommend.py` does with a training.",
    "debug": "Short runs that check that everything works.",
    "experiment": "Named combinations of the options above. The words that follow on the command line come after them and win.",
}
TOP = """\
# Options

```bash
python train.py scheduler=step scheduler.gamma=0.65     # a word for an option, a dotted key for a value
python train.py --cfg job scheduler=step                # prints the configuration and trains nothing
```

Every option is a file `conf/<group>/<option>.yaml`. This page is made of those files by `make docs`.

- Times are in epochs, sizes in examples. A batch size is always the effective one, over all micro-batches and devices.
- `null` leaves a value open; the key's own line says what happens then. `${optimizer.lr}` is the value of the key `optimizer.lr`.
- A key that is not listed is refused, and the error names the keys that exist. `trainer` is an exception: Lightning's other keys can be
  added, as in `+trainer.profiler=simple`. `python train.py --help` lists all options.
"""
FIGURE = "![Learning rate of every schedule and batch size of every strategy, over 20 epochs](schedules.png)"
NEW_STATEMENT = re.compile(r"(Measured|Paper|Plan:|Runtime:|Planner only|NOT run|After |On |From |No ) ?")


# -- Markdown ------------------------------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Text as Markdown: <class> is no tag, _base.yaml no emphasis; what is between backticks stays."""
    parts = text.replace(", see _common", "").split("`")
    parts[::2] = [re.sub(r"(?<!\w)_(?=\w)", r"\\_", re.sub(r"<(?=[A-Za-z/])", "&lt;", part)) for part in parts[::2]]
    return "`".join(parts)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def value_of(value: Any) -> str:
    """A default as it is typed."""
    if isinstance(value, dict):
        return str(value.get("_target_") or ", ".join(f"{key}: {value_of(inner)}" for key, inner in value.items()))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(value_of(item) for item in value)}]" if isinstance(value, list) else str(value) or '""'


def paragraphs(lines: list[str]) -> Iterator[str]:
    """Comment lines as Markdown: indented lines are commands, others are joined."""
    text: list[str] = []
    for line in lines:
        if line.startswith("  "):
            if text:
                yield escaped(" ".join(text))
            yield f"```bash\n{line.strip()}\n```" if line.strip().startswith("python ") else f"    {line.strip()}"
            text = []
        else:
            text.append(line)
    if text:
        yield escaped(" ".join(text))


def comment_of(key: str, value: Any, comments: dict[str, str]) -> str:
    reference = re.fullmatch(r"\$\{([\w.]+)\}", str(value))
    return escaped(comments.get(key) or (f"follows `{reference[1]}`" if reference else ""))


def table(prefix: str, keys: dict[str, Any], comments: dict[str, str]) -> str:
    """key | default | what it is."""
    lines = ["| key | default | what it is |", "| --- | --- | --- |"]
    for key, value in keys.items():
        lines.append(f"| `{prefix}{key}` | `{cell(value_of(value))}` | {cell(comment_of(key, value, comments))} |")
    return "\n".join(lines)


def option_of(group_name: str, option: Option, group: dict[str, Option], default: str) -> Iterator[str]:
    """The section of one option."""
    if option.shared:
        others = [other for other in group.values() if not other.shared]
        users = [f"`{other.name}`" for other in others if option in lineage(other, group)]
        who = f"all options of `{group_name}`" if len(users) == len(others) else f"{', '.join(users[:-1])} and {users[-1]}"
        yield f"### Keys that {who} share"
        option.about = [re.sub("^Keys that .* shares?; not an option itself. ?|; not an option itself", "", line) for line in option.about]
    else:
        yield f"### {group_name}={option.name}"
    text = [paragraph for paragraph in paragraphs(option.about) if paragraph]
    if option.name == default:
        text[0] = f"The default. {text[0]}"
    yield from text
    own = {key: value for key, value in option.keys.items() if not key.startswith("_")}
    before = lineage(option, group)
    comments = {key: text for parent in reversed(before) for key, text in parent.comments.items()} | {
        key: text for key, text in option.comments.items() if text
    }
    if own:
        yield table(f"{option.package or group_name}.", own, comments)
    if option.shared:
        return
    visible = [parent for parent in before if not parent.shared]
    inherited = {key: None for parent in before if parent.shared for key in parent.keys if key not in own and not key.startswith("_")}
    if visible:
        yield f"Its other keys are those of `{group_name}={visible[0].name}`."
    elif inherited:
        yield f"Shared keys: {', '.join(f'`{key}`' for key in inherited)}."


def choices(option: Option, group: dict[str, Option]) -> dict[str, str]:
    """What an experiment sets, as it would be typed: `scheduler=step`, `optimizer.lr=0.1`; later ones win."""
    found: dict[str, str] = {}
    for entry in option.defaults:
        if isinstance(entry, dict):
            found |= {key.removeprefix("override /"): str(value) for key, value in entry.items()}
        elif entry != "_self_":
            found |= choices(group[entry.removeprefix("/experiment/")], group)
    for key, value in option.keys.items():
        flat = {f"{key}.{inner}": item for inner, item in value.items()} if isinstance(value, dict) else {key: value}
        found |= {name: value_of(item).replace(", ", ",") for name, item in flat.items()}
    return found


def statements_of(option: Option) -> list[list[str]]:
    """The lines of an experiment's header, without its command: what it is, what the paper says, what was measured, ..."""
    found: list[list[str]] = [[]]
    for line in option.about:
        if line.startswith("  "):
            found.append([])
        elif NEW_STATEMENT.match(line) and found[-1] and found[-1][-1].endswith((".", ":")):
            found.append([line])
        else:
            found[-1].append(line)
    return [lines for lines in found if lines]


def combination_of(group_name: str, option: Option, group: dict[str, Option]) -> Iterator[str]:
    """The section of one experiment, or of one debug option."""
    family = option.name.rpartition("/")[0]
    yield f"### What the {family} experiments share" if option.shared else f"### {group_name}={option.name}"
    command = next((line.strip() for line in option.about if line.startswith("  ")), f"python train.py {group_name}={option.name}")
    if not option.shared:
        yield f"```bash\n{command}\n```"
    text = [escaped(" ".join(lines)).replace(f": {command}", ".") for lines in statements_of(option)]
    above = f"[what the {family} experiments share](#what-the-{family}-experiments-share)"
    text = [line.replace("\\_base.yaml", above) for line in text]
    if option.shared:
        said = re.sub(r";? ?not an experiment itself", "", " ".join(text), flags=re.IGNORECASE).replace("..", ".")
        yield re.sub(rf"^What the .* {family} share[:.] ", "", said)
        return
    yield text[0]
    if text[1:]:
        yield "\n".join(f"- {line}" for line in text[1:])
    yield f"Short for `{' '.join(f'{key}={value}' for key, value in choices(option, group).items())}`."


def page() -> str:
    """The whole page."""
    config = read(CONF / "config.yaml", "config")
    default = {key: value for entry in config.defaults if isinstance(entry, dict) for key, value in entry.items()}
    parts = [TOP]
    overview = ["| group | options, the default in bold |", "| --- | --- |"]
    for name in GROUPS:
        words = [option.name for option in group_of(name).values() if not option.shared]
        listed = ", ".join(f"**{word}**" if word == default.get(name) else word for word in words)
        overview.append(f"| [`{name}`](#{name}) | {listed} |")
    parts += ["\n".join(overview), FIGURE]
    for name, about in GROUPS.items():
        group = group_of(name)
        parts += [f"## {name}", about]
        for option in group.values():
            if name in ("experiment", "debug"):
                parts += combination_of(name, option, group)
            else:
                parts += option_of(name, option, group, default[name])
    outside = {key: value for key, value in config.keys.items() if key not in ("hydra", "output_dir")}
    parts += ["## Keys outside the groups", table("", outside, config.comments)]
    parts += ["`hydra.run.dir` and `hydra.sweep.dir` are the folders of runs and sweeps: see [reading a run](reading-a-run.md)."]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
