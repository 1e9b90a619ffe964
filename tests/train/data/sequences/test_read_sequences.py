"""Files of sequences: FASTA and tables, packed or not, and a line for each that cannot be read."""

import gzip
import random

import pytest
from archzoo.train.data.sequences.read_sequences import found_records, read_sequences

FASTA = ">one made genus=Alpha fold=7\nMKV\nLLA\n>two made genus=Beta fold=8\n\nAAV\n;note\n"
TABLE = "genus,sequence,fold\nAlpha,MKVLLA,7\nBeta,AAV,8\n"
EXPECTED = [("MKVLLA", "Alpha"), ("AAV", "Beta")]


def told(records):
    return [(record.sequence, record.label) for record in records]


def write(folder, name, text):
    path = folder / name
    if name.lower().endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "name", ["a.fasta", "a.fa", "a.FAA", "a.fna.gz", "a.b.fasta.gz", "a.fa.GZ"]
)
def test_fasta_gives_letters_and_the_class_of_a_key(name, tmp_path):
    place = write(tmp_path, name, FASTA)
    found = read_sequences(place, target="genus", cluster="fold")
    assert told(found) == EXPECTED and [record.cluster for record in found] == ["7", "8"]
    assert told(read_sequences(place)) == [("MKVLLA", "fold=7"), ("AAV", "fold=8")]
    assert told(read_sequences(place, target="")) == [("MKVLLA", ""), ("AAV", "")]
    assert found[1].name == f"{place}: two"


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz", "a.TSV.GZ"])
def test_a_table_gives_letters_and_the_first_other_column(name, tmp_path):
    text = TABLE.replace(",", "\t") if ".tsv" in name.lower() else TABLE
    place = write(tmp_path, name, text)
    assert told(read_sequences(place)) == told(read_sequences(place, target="genus")) == EXPECTED
    found = read_sequences(place, target="fold", cluster="genus")
    assert [(each.label, each.cluster) for each in found] == [("7", "Alpha"), ("8", "Beta")]
    assert told(read_sequences(place, column="genus", target=""))[0] == ("Alpha", "")
    assert found[1].name == f"{place}:3"


def test_a_folder_has_a_file_of_each_class(tmp_path):
    write(tmp_path, "Alpha.fasta", ">x\nMKV\n")
    write(tmp_path, "Beta.fa.gz", ">y note\nAAV\n>z note\nAAL\n")
    write(tmp_path, "readme.txt", "no sequence")
    assert told(read_sequences(str(tmp_path))) == [
        *(("MKV", "Alpha"), ("AAV", "Beta"), ("AAL", "Beta"))
    ]


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.fasta", "", {}, "a.fasta is empty; give a file with a record"),
        ("a.fasta.gz", "\n\n", {}, "is empty"),
        ("a.fasta", "MKV\n", {}, "begins with 'MKV', not with a header '>NAME'"),
        ("a.fasta", ">one x\n>two x\nMKV\n", {}, "a.fasta: one has no letters; leave it out"),
        ("a.fasta", ">one\nMKV\n", {}, "one says no class; .*data.target=KEY"),
        ("a.fasta", ">\nMKV\n", {}, "a record without a name says no class"),
        ("a.fasta", ">one a=b\nMKV\n", {"target": "kind"}, "one has no kind=VALUE .*data.target=k"),
        ("a.fasta", ">one a\nMKV\n", {"cluster": "c"}, "one has no c=VALUE .*data.cluster=c"),
        ("a.csv", "", {}, "a.csv has no header"),
        ("a.csv", "sequence\nMKV\n", {}, "a.csv has no column beside 'sequence' that says the cl"),
        ("a.csv", "kind,sequence\n", {}, "a.csv holds no sequence"),
        ("a.csv", "kind,seq\nA,MKV\n", {}, "no column data.column=sequence; did you mean 'seq'"),
        (
            "a.csv",
            TABLE,
            {"target": "genera"},
            "no column data.target=genera; did you mean",
        ),
        ("a.csv", "kind,sequence\nA\n", {}, "a.csv:2 has 1 cells, not 2"),
        ("a.csv", "kind,sequence\n,MKV\n", {}, "a.csv:2 has an empty cell in column 'kind'"),
        ("a.tsv", "kind\tsequence\nA\t\n", {}, "a.tsv:2 has an empty cell in column 'sequence'"),
        ("a.txt", FASTA, {}, "a.txt ends in none of .fasta, .fa"),
    ],
)
def test_what_cannot_be_read_is_one_line(name, text, options, message, tmp_path):
    with pytest.raises(ValueError, match=message) as refused:
        read_sequences(write(tmp_path, name, text), **options)
    assert "\n" not in str(refused.value)


def test_a_class_is_the_name_of_a_file_without_its_ending_and_of_one_file(tmp_path):
    for name in ("E.coli.faa", "E.faecium.faa.gz", "S.aureus.FNA.GZ"):
        text = gzip.compress(b">x\nMKV\n") if name.lower().endswith("gz") else b">x\nMKV\n"
        (tmp_path / name).write_bytes(text)
    (tmp_path / "._E.coli.faa").write_bytes(b"\x00\xff")
    found = read_sequences(str(tmp_path))
    assert [record.label for record in found] == ["E.coli", "E.faecium", "S.aureus"]
    write(tmp_path, "E.coli.fa", ">y\nMKL\n")
    with pytest.raises(ValueError, match="E.coli.fa and E.coli.faa in .* both of the class 'E.co"):
        read_sequences(str(tmp_path))
    assert len(read_sequences(str(tmp_path), target="")) == 4


def test_a_value_of_a_header_goes_on_to_the_next_key(tmp_path):
    text = ">a x OS=Mus musculus OX=10090 GN=g\nMKV\n>b OS=Mus caroli\nMKL\n>c OS=Mus OX=1\nMKA\n"
    found = read_sequences(write(tmp_path, "a.fasta", text), target="OS")
    assert [record.label for record in found] == ["Mus musculus", "Mus caroli", "Mus"]
    path = write(tmp_path, "b.fasta", ">a OS= OX=1 tail\nMKV\n")
    with pytest.raises(ValueError, match="a has no OS=VALUE"):
        read_sequences(path, target="OS")


def test_a_quote_between_tabs_is_a_letter_and_between_commas_swallows_no_row(tmp_path):
    rows = 'kind\tsequence\n"A\tMKV\nB\tMKL\n"C\tMKA\n'
    assert told(read_sequences(write(tmp_path, "a.tsv", rows))) == [
        *(("MKV", '"A'), ("MKL", "B"), ("MKA", '"C'))
    ]
    path = write(tmp_path, "a.csv", rows.replace("\t", ","))
    with pytest.raises(ValueError, match="cannot be read as a table|line break"):
        read_sequences(path)
    path = write(tmp_path, "b.csv", 'kind,sequence\nA,MKV\nB,"MKL\nC,MKA\n')
    with pytest.raises(ValueError, match="cannot be read as a table in UTF-8: unexpected end"):
        read_sequences(path)
    path = write(tmp_path, "c.csv", 'kind,sequence\nA,"MKV\nB,MKL"\n')
    with pytest.raises(ValueError, match="c.csv:3 has a line break in column 'sequence'; mend its"):
        read_sequences(path)


def test_columns_of_one_name_are_refused_and_those_without_say_no_class(tmp_path):
    path = write(tmp_path, "a.csv", "kind,sequence,kind\nA,MKV,B\n")
    with pytest.raises(ValueError, match="two columns named 'kind'; give every column"):
        read_sequences(path)
    indexed = write(tmp_path, "b.csv", ",,kind,sequence\n0,x,A,MKV\n1,x,B,MKL\n")
    assert told(read_sequences(indexed)) == [("MKV", "A"), ("MKL", "B")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz"])
def test_a_cell_has_as_many_letters_as_a_gene(name, tmp_path):
    comma = "," if "csv" in name else "\t"
    letters = "ACGT" * 50_000
    place = write(tmp_path, name, f"kind{comma}sequence\nA{comma}{letters}\n")
    assert told(read_sequences(place)) == [(letters, "A")]


def test_what_cannot_be_read_is_kept_beside_the_rest_where_it_is_asked_for(tmp_path):
    found = found_records(write(tmp_path, "a.fasta", ">a\nMKV\n>b\n>c\nMKL\n"), target="")
    assert [(each.sequence, each.fault[:14]) for each in found] == [
        *(("MKV", ""), ("", "has no letters"), ("MKL", ""))
    ]
    found = found_records(write(tmp_path, "a.csv", "id,sequence\n1,MKV\n2\n3,\n4,A\n"), target="")
    assert [each.fault.partition(" in")[0] for each in found] == [
        *("", "has 1 cells, not 2", "has an empty cell", "")
    ]


def test_a_place_without_sequences_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="file of sequences was not found in .*give data.root=…"):
        read_sequences(str(tmp_path / "none.fasta"))
    with pytest.raises(ValueError, match=r"holds no file \*.fasta, .*give data.root=…"):
        read_sequences(str(tmp_path))


@pytest.mark.parametrize("name", ["a.fasta.gz", "a.csv.gz"])
def test_a_packed_file_that_was_cut_off_is_one_line(name, tmp_path):
    path = tmp_path / name
    text = TABLE if "csv" in name else FASTA
    path.write_bytes(gzip.compress(text.encode() * 50)[:-20])
    with pytest.raises(ValueError, match="cannot be read as"):
        read_sequences(str(path))
    whole = bytearray(gzip.compress(random.Random(0).randbytes(4000)))
    whole[40:80] = bytes(byte ^ 255 for byte in whole[40:80])
    whole[10] = 255  # a kind of block that there is not
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="cannot be read as"):
        read_sequences(str(path))
    path.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="cannot be read as"):
        read_sequences(str(path))
