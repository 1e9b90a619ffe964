"""Graphs from files: what is read, and what is refused in one line."""

import gzip

import pytest
import torch
from archzoo.train.data import data_sets
from archzoo.train.data.graphs import read_graph


@pytest.fixture
def place(tmp_path):
    """Write files into a folder, and return its path and that of `net.tsv`."""

    def write(text="0\t1\n2 1\n0,2\n", name="net.tsv", **beside):
        packed = name.endswith(".gz")
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        for other, content in beside.items():
            (tmp_path / other.replace("__", ".")).write_text(content)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("name", ["net.tsv", "net.txt", "net.csv.gz", "net.edges"])
def test_an_edge_is_two_numbers_a_line_however_they_stand_apart(place, name):
    read = read_graph(place("# a comment\n\n0\t1\n2 1\n% another\n0,2\n", name))
    assert read.edges.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert (read.num_nodes, read.labels, read.features, read.left_out) == (3, None, None, 0)


def test_labels_and_features_lie_beside_their_edges(place):
    path = place(net__labels__txt="b\na\nb\n", net__features__csv="1,2\n3,4\n-1,.5\n")
    read = read_graph(path)
    assert read.labels == ["b", "a", "b"]
    assert torch.equal(read.features, torch.tensor([[1, 2], [3, 4], [-1, 0.5]]))


def test_a_folder_of_a_graph_is_its_three_files(place, tmp_path):
    place(name="edges.tsv.gz", labels__txt="x\ny\nx\n", features__tsv="1\n2\n3\n")
    read = read_graph(str(tmp_path))
    assert len(read.edges) == 3 and read.labels == ["x", "y", "x"]
    assert read.features.flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize("how", ["comment", "keyword", "labels"])
def test_a_node_may_stand_alone_where_the_number_of_nodes_is_told(place, how):
    text = "# 5 nodes, 1 edge\n0 3\n" if how == "comment" else "0 3\n"
    beside = {"net__labels__txt": "a\n" * 5} if how == "labels" else {}
    given = {"num_nodes": 5} if how == "keyword" else {}
    assert read_graph(place(text, **beside), **given).num_nodes == 5


def test_loops_and_repetitions_are_left_out_if_one_says_so(place):
    path = place("0 1\n1 0\n1 1\n0 1\n")
    read = read_graph(path, simplify=True)
    assert read.edges.tolist() == [[0, 1]] and read.left_out == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n5 5\n", "net.tsv, line 2: the edge 5 5 is a loop; mend .* data.simplify=true"),
        ("0 1\n# x\n1 0\n", "line 3: the edge 0 1 is in line 1 already; mend the file"),
        ("0 1\n3 1\n", "node 2 below the highest, 3, has no edge; .* or say data.num_nodes=4"),
        ("1 2\n5 6\n", "node 0 and 2 more below the highest, 6, has no edge; number nodes from 0"),
        ("0 1\nanna bert\n", "line 2: 'anna bert' is no edge; write two node numbers from 0 on"),
        ("0 1 0.5\n", "line 1: '0 1 0.5' is no edge"),
        ("0 -1\n", "line 1: '0 -1' is no edge"),
        ("0\n", "line 1: '0' is no edge"),
        ("# 3 nodes\n0 1\n2 3\n", "line 3: node 3 is not below the number of nodes, 3"),
        ("# nothing\n", "net.tsv holds no edge"),
    ],
)
def test_a_bad_edge_is_refused_by_its_line(place, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read_graph(place(text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"net__labels__txt": "a\n\nb\n"}, "labels.txt, line 2 holds no label; give every node"),
        (
            {"net__labels__txt": "a\nb\na\n", "net__features__tsv": "1\n2\n"},
            "features.tsv has 2 lines, but there are 3 nodes; give a line for each node",
        ),
        ({"net__labels__txt": "a\nb\n"}, "node 2 is not below the number of nodes, 2"),
        ({"net__features__tsv": "1\nx\n3\n"}, "features.tsv, line 2: could not convert .* numbers"),
        ({"net__features__tsv": "1\n2 3\n3\n"}, "line 2 must hold as many finite numbers as the f"),
        ({"net__features__tsv": "1\nnan\n3\n"}, "line 2 must hold as many finite numbers as the f"),
        ({"net__features__tsv": "\n1\n3\n"}, "line 1 must hold as many finite numbers"),
    ],
)
def test_labels_and_features_that_do_not_fit_are_refused_by_line(place, beside, message):
    with pytest.raises(ValueError, match=message):
        read_graph(place(**beside))


def test_files_that_are_missing_damaged_or_several_are_named(place, tmp_path):
    with pytest.raises(ValueError, match="is no file and no folder; give that of an edge list"):
        read_graph(str(tmp_path / "none.tsv"))
    with pytest.raises(ValueError, match="holds 0 edge lists named edges.tsv"):
        read_graph(str(tmp_path))
    whole = gzip.compress(b"0 1\n" * 1000)
    (tmp_path / "cut.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.tsv\.gz is damaged: .*; take it anew"):
        read_graph(str(tmp_path / "cut.tsv.gz"))
    (tmp_path / "bytes.tsv").write_bytes(b"0 1\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"bytes\.tsv is damaged"):
        read_graph(str(tmp_path / "bytes.tsv"))
    place(name="edges.tsv")
    place(name="edges.csv")
    with pytest.raises(ValueError, match="holds 2 edge lists"):
        read_graph(str(tmp_path))


# The two data sets.


RING = "".join(f"{i} {(i + 1) % 12}\n" for i in range(12)) + "0 6\n3 9\n"


def test_a_file_is_two_data_sets(place):
    path = place(RING, net__labels__txt="left\nright\n" * 6)
    nodes = data_sets.build("graph", path=path)
    assert (nodes.kind, nodes.num_classes) == ("graph", 2)
    assert nodes.about["classes"] == ["left", "right"] and len(nodes.graph.edges) == 14
    links = data_sets.build("graph_links", path=path, held_out=0.2)
    assert (links.kind, links.num_classes) == ("nodes", 12)
    assert len(links.graph.edges) == 12 and links.graph.num_nodes == 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("graph", "has no labels beside it; .*, or predict links: data=graph_links"),
        ("graph_links", "held_out=0.1 cannot be had"),
    ],
)
def test_a_file_that_does_not_do_for_a_task_is_refused(place, name, message):
    with pytest.raises(ValueError, match=message):
        data_sets.build(name, path=place("0 1\n1 2\n"))
    with pytest.raises(ValueError, match="data.path must name an edge list"):
        data_sets.build(name)


def test_a_graph_of_few_nodes_or_one_class_is_refused(place):
    path = place(net__labels__txt="a\nb\nb\n")
    with pytest.raises(ValueError, match="has 3 nodes and 2 classes; at least 10 nodes and 2"):
        data_sets.build("graph", path=path)
    path = place(RING, net__labels__txt="a\n" * 12)
    with pytest.raises(ValueError, match="has 12 nodes and 1 classes"):
        data_sets.build("graph", path=path)
