"""Tables: what comes back equals what was written, and every cell that is refused is named."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pyro_vae.data import DataCorruptError, DataNotFoundError, is_available, load_again, load_data
from pyro_vae.data.source import default_order

NUMBERS = np.random.default_rng(0).normal(2.0, 1e3, (30, 3)).astype(np.float32)
FRAME = pd.DataFrame(NUMBERS.astype(np.float64), columns=["length", "width", "height"])
SPECIES = ["setosa", "virginica", "NA"] * 10


@pytest.fixture(params=["csv", "tsv", "parquet"])
def save(request, tmp_path):
    """Write a data frame in each format, and return its path."""

    def write(frame):
        path = tmp_path / f"t.{request.param}"
        if request.param == "parquet":
            frame.to_parquet(path, index=False)
        else:
            frame.to_csv(path, index=False, sep="," if request.param == "csv" else "\t")
        return path

    return write


@pytest.fixture
def text(tmp_path):
    """Write a text as a .csv, and return its path."""

    def write(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def splits_of(rows):
    order = default_order(rows)
    tenth = rows // 10
    return {"train": order[: -2 * tenth], "valid": order[-2 * tenth : -tenth], "test": order[-tenth:]}


def test_numbers_come_back_bit_for_bit(save):
    path = save(FRAME)
    assert is_available(path)
    data = load_data(path)
    assert (data.values, data.binarization, data.x_shape, data.datum) == ("real", "none", (3,), ("x",))
    for name, rows in splits_of(30).items():
        assert torch.equal(getattr(data, name), torch.from_numpy(NUMBERS)[rows])
    assert load_data(path, valid_size=9).valid.shape == (9, 3)


def test_texts_are_labels_in_their_alphabetical_order(save):
    path = save(FRAME.assign(species=SPECIES))
    data = load_data(path, labels="species")
    assert data.datum == ("x", "labels")
    assert data.classes == {"labels": ("NA", "setosa", "virginica")}
    codes = torch.tensor([1, 2, 0] * 10)
    for name, rows in splits_of(30).items():
        x, labels = getattr(data, name)
        assert torch.equal(x, torch.from_numpy(NUMBERS)[rows])
        assert torch.equal(labels, codes[rows])
    alone = load_data(path, label_column="species")
    assert torch.equal(alone.train, data.train[0])
    assert torch.equal(alone.train_labels, data.train[1])
    assert load_data(path, label_column="species", labels=True).describe() == data.describe()


def test_whole_numbers_are_labels_as_they_are(save):
    years = [2019, 2021, 2020] * 10
    data = load_data(save(FRAME.assign(year=years)), labels="year")
    assert torch.equal(data.train[1], torch.tensor(years)[splits_of(30)["train"]])
    assert data.classes == {}
    flags = load_data(save(FRAME.assign(flag=[True, False] * 15, x=[False, True] * 15)), tensors=("flag",))
    assert torch.equal(flags.train[1], (splits_of(30)["train"] + 1) % 2)
    assert torch.equal(flags.train[0][:, 3], (splits_of(30)["train"] % 2).float())


def test_columns_are_features_tensors_or_left_out(save):
    frame = FRAME.assign(species=SPECIES, age=np.arange(30) / 4, id=[f"n{i}" for i in range(30)])
    path = save(frame)
    data = load_data(path, labels="species", tensors=("age",), drop=["id"])
    assert data.datum == ("x", "labels", "age")
    assert torch.equal(data.test[2], splits_of(30)["test"] / 4)
    named = load_data(path, features=("width", "length"), tensors=["id"])
    assert torch.equal(named.train[0], data.train[0][:, [1, 0]])
    assert len(named.classes["id"]) == 30


def test_a_column_of_splits_says_where_each_row_belongs(save):
    where = (["train"] * 8 + ["Test", "val"]) * 3
    data = load_data(save(FRAME.assign(split=where)))
    rows = torch.arange(30)
    for name, found in (
        ("train", rows[rows % 10 < 8]),
        ("test", rows[rows % 10 == 8]),
        ("valid", rows[rows % 10 == 9]),
    ):
        assert torch.equal(getattr(data, name), torch.from_numpy(NUMBERS)[found])
    other = load_data(save(FRAME.assign(fold=["train", "test"] * 15)), split_column="fold", valid_size=5)
    assert [len(split) for split in (other.train, other.valid, other.test)] == [10, 5, 15]
    assert torch.equal(other.test, torch.from_numpy(NUMBERS)[1::2])


def test_missing_cells_are_refused_or_masked(save):
    frame = FRAME.copy()
    frame.loc[6, "width"] = frame.loc[9, "height"] = np.nan
    path = save(frame)
    with pytest.raises(ValueError, match=r"2 of 90 .*row 7 .*'width'"):
        load_data(path)
    data = load_data(path, missing="mask", standardize=True)
    x, mask = data.train
    rows = splits_of(30)["train"]
    gone = torch.from_numpy(frame.isna().to_numpy().copy())[rows]
    assert torch.equal(mask, ~gone)
    train = frame.to_numpy()[rows]
    expected = (train - np.nanmean(train, 0)) / np.nanstd(train, 0)
    torch.testing.assert_close(x, torch.from_numpy(np.nan_to_num(expected)).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("written", ["", "NA", "nan", "null", "NaN"])
def test_what_a_missing_number_may_be_written_as(text, written):
    lines = "".join(f"{row},{row + 1}\n" for row in range(20))
    path = text(f"a,b\n{lines}{written},3\n")
    with pytest.raises(ValueError, match="row 21 of column 'a'"):
        load_data(path)


def test_a_description_loads_the_same_table_again(save):
    path = save(FRAME.assign(species=SPECIES, age=np.arange(30.0)))
    data = load_data(path, labels="species", tensors=("age",), standardize=True, valid_size=4)
    record = yaml.safe_load(yaml.safe_dump(data.describe()))
    assert record["options"] == {"label_column": "species", "tensors": ["age"], "standardize": True}
    assert record["classes"] == {"labels": ["NA", "setosa", "virginica"]}
    assert load_again(record).describe() == data.describe()
    assert repr(data).endswith("23/4/3 of 3 real values with labels, age, standardised, seed=0)")


def test_the_content_hash_follows_each_cell(save):
    hashes = [load_data(save(FRAME)).content_hash]
    changed = FRAME.copy()
    changed.iloc[29, 2] = float(np.nextafter(np.float32(changed.iloc[29, 2]), np.float32(np.inf)))
    hashes.append(load_data(save(changed)).content_hash)
    hashes.append(load_data(save(FRAME[["width", "length", "height"]])).content_hash)
    assert len(set(hashes)) == 3


def test_counts_and_pixels_of_a_table(save):
    counts = pd.DataFrame(np.arange(60).reshape(20, 3), columns=list("abc"))
    data = load_data(save(counts), values="counts")
    assert (data.values, data.train.sum() + data.valid.sum() + data.test.sum()) == ("counts", 59 * 30)
    counts.loc[4, "b"] = -1
    with pytest.raises(ValueError, match="row 5 of column 'b', negative"):
        load_data(save(counts), values="counts")
    bits = pd.DataFrame(np.random.default_rng(0).integers(0, 2, (20, 30)), columns=[f"b{i}" for i in range(30)])
    assert load_data(save(bits), values="pixels", binarization="static").train.unique().tolist() == [0, 1]


def test_columns_may_be_named_by_numbers_that_count_up(text):
    lines = "".join(f"{row},{row + 1}\n" for row in range(20))
    for names in ("0,1", "2019,2020", "1,2"):
        assert load_data(text(f"{names}\n{lines}")).x_shape == (2,)


def test_spaces_and_a_mark_of_the_byte_order_are_no_part_of_names(text):
    lines = "".join(f"{row}, k{row % 2}\n" for row in range(20))
    data = load_data(text(f"\ufeff a, kind\n{lines}"), labels="kind")
    assert data.classes == {"labels": ("k0", "k1")}


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "must name the columns"),
        ("a,b\n", {}, "no rows below the names"),
        ("a;b\n1;2\n", {}, "separator=';'"),
        ("a\tb\n1\t2\n", {}, r"separator='\\t'"),
        ("a,b\n1,2\n", {"separator": ";"}, "separator=','"),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n", {}, r"first line; .* 5\.1, 3\.5"),
        ("3,5\n4,5\n", {}, "must name its columns"),
        ("a,b,a\n1,2,3\n", {}, "has 2 columns 'a': rename"),
        (",a\n0,1\n", {}, r"1 has no name.*index=False"),
        ("a,b\n1,2\n3,four\n", {}, "'b' .*; row 2 has 'four'"),
        ('a,b\n1,2\n3,"1,234"\n', {}, "'b' .*; row 2 has '1,234'"),
        ("a,b\n1,2\n3,\n", {}, "1 of 4 .* row 2 of column 'b'"),
        ("a,b\n1,2\n3\n", {}, "1 of 4 .* row 2 of column 'b'"),
        ("a,b\n1,2\n-inf,2\n", {}, "infinite, .* row 2 of .* 'a'"),
        ("a,b\n1,1e39\n3,4\n", {}, "beyond the range of float32"),
        ("a,b\n1,x\n3,y\n", {"labels": "c"}, "no column 'c', .* label_column"),
        ("length,b\n1,x\n3,y\n", {"labels": "lenght"}, "Did you mean 'length'"),
        ("a,b\n1,x\n3,\n", {"labels": "b"}, "'b' .* each row; row 2"),
        ("a,b\n1,0.5\n3,1.5\n", {"labels": "b"}, r"must hold labels.* has '0\.5'"),
        ("a,b\n1,x\n3,y\n", {"features": ["a"], "drop": ["a"]}, "is a feature, and also"),
        ("a\nx\ny\n", {"labels": "a"}, "no column of features"),
        ("a,b\n1,2\n", {"labels": True}, "too few to|name their column"),
        ("a,b\n1,2\n", {"tensors": ("labels",)}, "label_column='COLUMN'"),
        ("a,split\n1,train\n2,mine\n", {}, "row 2 has 'mine'"),
        ("a,split\n1,test\n2,test\n", {}, "no row of the split train"),
        ("a,b\n1,2\n", {"values": None}, "one of pixels, real, counts"),
        ("a,b\n1,2\n", {"separator": "::"}, "separator must be one char"),
        ("a,b\n1,2\n", {"split_column": ""}, "split_column must be a text"),
        ("a,b\n1,2\n", {"feature": ["a"]}, "Did you mean 'features'"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(text, content, options, message):
    with pytest.raises(ValueError, match=message):
        load_data(text(content), **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n1,2,3\n", "not a whole table"),
        (b"a,b\n1,\xff\xfe\n", "not a whole table in UTF-8"),
        (b"\xff\xfea\x00\n\x00", "not a whole table in UTF-8"),
        (b'a,b\n1,"2\n', "row 1|too few|not a whole table"),
    ],
)
def test_a_damaged_text_is_named(text, content, message):
    with pytest.raises(ValueError, match=message):
        load_data(text(content))


@pytest.mark.parametrize("size", [0, 3, 100, -1])
def test_a_damaged_parquet_file_is_named(tmp_path, size):
    FRAME.to_parquet(tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()[:size]
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataCorruptError, match=r"t\.parquet .* whole Parquet"):
        load_data(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.date_range("2020-01-01", periods=30), "'new' .* it holds datetime64"),
        ([[1, 2]] * 30, "'new' .*; row 1 has"),
        (["a"] * 30, "'new' .*; row 1 has 'a'"),
        (pd.Categorical(["a", "b"] * 15), "'new' .* it holds category|'a'"),
    ],
)
def test_columns_of_a_parquet_file_that_are_no_numbers_are_refused(tmp_path, column, message):
    FRAME.assign(new=column).to_parquet(tmp_path / "t.parquet", index=False)
    with pytest.raises(ValueError, match=message):
        load_data(tmp_path / "t.parquet")


def test_the_index_of_a_data_frame_is_no_feature(tmp_path):
    FRAME.set_index(pd.Index(range(5, 35)).astype(str)).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="index of a data frame"):
        load_data(tmp_path / "t.parquet")
    assert load_data(tmp_path / "t.parquet", drop="__index_level_0__").x_shape == (3,)


def test_a_table_that_is_gone_is_not_found(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"gone\.csv"):
        load_data(tmp_path / "gone.csv")
    assert not is_available(tmp_path / "gone.csv")


def test_rows_that_are_trained_on_are_counted(save):
    with pytest.warns(UserWarning, match="1 of 3 test data"):
        load_data(
            save(
                pd.concat([FRAME.iloc[:29], FRAME.iloc[[0]]]).assign(
                    split=["train"] * 25 + ["valid"] * 2 + ["test"] * 3
                )
            )
        )
