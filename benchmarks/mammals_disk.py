"""Draw the mammals that `experiment=wordnet_mammals model.dim=2` embedded, as a tree in the disk.

    archzoo train experiment=wordnet_mammals data.root=DIR model.dim=2 run_dir=runs/mammals
    python benchmarks/mammals_disk.py runs/mammals --root DIR --out mammals.png

Edges join a synset with its direct hypernyms; those with the most synsets below them are named.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from archzoo.train.data.relations import transitive_closure
from archzoo.train.data.sets.wordnet import read_subset
from archzoo.zoo import create_model
from archzoo.zoo.inspect.disk import plot_tree


def draw(run: Path, root: Path, out: Path, named: int) -> None:
    """Draw the best points of a run.

    Raises:
        ValueError: no saved model, no WordNet, or a model of other nodes.
    """
    model: Any = create_model(f"local-dir:{run}")
    names, parents = read_subset(root, "mammals")
    points = model.points.detach()
    if len(points) != len(names):
        raise ValueError(f"{run} embeds {len(points)} nodes, but the mammals are {len(names)}")
    edges = [(node, parent) for node, above in enumerate(parents) for parent in above]
    below = transitive_closure(parents)[:, 1].bincount(minlength=len(names))
    words = {i: names[i].rpartition(".")[0] for i in below.topk(named).indices.tolist()}
    figure: Any = plot_tree(points, edges, words, model.embedding.curvature)
    figure.savefig(out, dpi=150)


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--root", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--out", type=Path, default=Path("mammals.png"), help="the picture")
    parser.add_argument("--named", type=int, default=14, help="how many synsets to name")
    arguments = parser.parse_args()
    try:
        draw(arguments.run, arguments.root, arguments.out, arguments.named)
    except ValueError as error:
        sys.exit(f"mammals_disk: {error}")
    print(arguments.out)


if __name__ == "__main__":
    main()
