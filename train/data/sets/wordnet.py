"""The noun hierarchy of WordNet: each noun with everything it is a kind of.

`data.noun` is read as it comes with WordNet 3.0; nothing is downloaded. Debian's package
`wordnet-base` holds it.

Sources: Fellbaum 1998, "WordNet: an electronic lexical database"; Nickel and Kiela 2017,
arXiv:1705.08039, §4.1, for the closure and the mammals.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..data_set import Splits, data_sets
from ..download import require
from ..relations import relation_splits, transitive_closure

__all__ = ["below", "leave_out", "read_nouns", "read_subset", "wordnet"]

FILE = "data.noun"
HINT = "give data.root=… (Debian's package wordnet-base has the file)"
# The authors' published list leaves these two childless mammals out, and so have those who compare
# with them: without them the closure has the 1,180 nodes and 6,540 relations of the literature.
LEFT_OUT = ("tusker", "female_mammal")


def read_nouns(path: Path) -> tuple[list[str], list[list[int]]]:
    """Read the synsets of a `data.noun` file and the numbers of their direct hypernyms.

    A synset is named by its first word and its offset, such as `mammal.01861778`; an instance
    (`@i`) has what it is an instance of as a hypernym.

    Raises:
        ValueError: a line that is not in the format of wndb(5), or a hypernym that is missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}; take that of WordNet 3.0") from error
    names: list[str] = []
    numbers: dict[str, int] = {}
    above: list[list[str]] = []
    for line, text in enumerate(lines, 1):
        if text.startswith("  "):  # the licence
            continue
        fields = text.partition(" | ")[0].split()
        try:
            words = int(fields[3], 16)
            place = 4 + 2 * words
            count = int(fields[place])
            pointers = [fields[place + 1 + 4 * i : place + 5 + 4 * i] for i in range(count)]
            hypernyms = [p[1] for p in pointers if p[0] in ("@", "@i")]
            name = f"{fields[4]}.{fields[0]}"
        except (IndexError, ValueError) as error:
            raise ValueError(f"{path}: line {line} is no synset in WordNet's format") from error
        numbers[fields[0]] = len(names)
        names.append(name)
        above.append(hypernyms)
    missing = {o for hypernyms in above for o in hypernyms if o not in numbers}
    if missing or not names:
        lacking = f"lacks the hypernyms {sorted(missing)[:3]}" if names else "holds no synset"
        raise ValueError(f"{path} {lacking}; take the whole file of WordNet 3.0")
    return names, [[numbers[offset] for offset in hypernyms] for hypernyms in above]


def below(
    word: str, names: Sequence[str], parents: Sequence[Sequence[int]]
) -> tuple[list[str], list[list[int]]]:
    """Cut out a synset and everything below it.

    Args:
        word: First word of the synset, which must be that of no other.
        names: As `read_nouns` gives them.
        parents: As `read_nouns` gives them.

    Raises:
        ValueError: no synset of that word, or several.
    """
    roots = [i for i, name in enumerate(names) if name.rpartition(".")[0] == word]
    if len(roots) != 1:
        raise ValueError(f"wordnet: {len(roots)} synsets have the first word {word!r}; one is due")
    kept = {roots[0]}
    fresh = True
    while fresh:  # a hypernym may stand anywhere in the file
        fresh = {i for i, above in enumerate(parents) if i not in kept and kept & {*above}}
        kept |= fresh
    order = sorted(kept)
    place = {node: i for i, node in enumerate(order)}
    return (
        [names[node] for node in order],
        [[place[p] for p in parents[node] if p in kept] for node in order],
    )


def leave_out(
    words: Sequence[str], names: Sequence[str], parents: Sequence[Sequence[int]]
) -> tuple[list[str], list[list[int]]]:
    """Remove childless synsets by their first word."""
    with_children = {p for above in parents for p in above}
    kept = [
        i
        for i, name in enumerate(names)
        if i in with_children or name.rpartition(".")[0] not in words
    ]
    place = {node: i for i, node in enumerate(kept)}
    return [names[i] for i in kept], [[place[p] for p in parents[i]] for i in kept]


def read_subset(
    folder: Path, subset: Literal["mammals", "nouns"]
) -> tuple[list[str], list[list[int]]]:
    """Read the names and direct hypernyms of a subset's nodes, in the order of the data set.

    Raises:
        ValueError: the file is missing or damaged.
    """
    require("wordnet", folder, [FILE], hint=HINT)
    names, parents = read_nouns(folder / FILE)
    if subset == "nouns":
        return names, parents
    return leave_out(LEFT_OUT, *below("mammal", names, parents))


@data_sets.register(kind="nodes", source="WordNet 3.0, WordNet licence")
def wordnet(
    *,
    root: str = "/usr/share/wordnet",
    subset: Literal["mammals", "nouns"] = "mammals",
    negatives: int = 10,
    held_out: float = 0.0,
) -> Splits:
    """Nouns of WordNet and, for each, all that it is a kind of: the closure of hypernymy.

    The mammals are `mammal` and all below it, but for two childless synsets that the authors leave
    out: 1,180 nodes and 6,540 relations (1,182 and 6,542 with them). The nouns are 82,115 with
    743,241 relations.

    Args:
        root: Folder with `data.noun`; by default where Debian's `wordnet-base` puts it.
        subset: `mammals` or `nouns`.
        negatives: Nodes beside the true one in a sample, at least 1.
        held_out: Share of the relations to predict, half for validation and half for the test; 0
            evaluates reconstruction: all folds hold all relations.

    Raises:
        ValueError: the file is missing or damaged, or a number is out of range.
    """
    folder = Path(root)
    names, parents = read_subset(folder, subset)
    about = {
        "source": f"WordNet, {FILE}, {subset}",
        "file sha256": hashlib.sha256((folder / FILE).read_bytes()).hexdigest(),
    }
    relations = transitive_closure(parents)
    return relation_splits(relations, len(names), negatives, held_out, about)
