"""A user's table: a CSV file or a Parquet file, a datum in each row."""

import contextlib
import csv
import itertools
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.errors import DataCorruptError
from pyro_vae.data.option import check_names, data_option
from pyro_vae.data.source import (
    GREY_BY_DEFAULT,
    SPLIT_NAMES,
    Request,
    Source,
    Split,
    Splits,
    given_splits,
    split_randomly,
)
from pyro_vae.data.values import MASK, Values, in_float32
from pyro_vae.runtime.checks import in_short
from pyro_vae.runtime.user_code import told
from pyro_vae.runtime.wording import did_you_mean

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""What stands between two cells of a line unless the user says otherwise, by the file's suffix."""

OTHERS = (";", "\t", "|", ",")
"""Separators that a message suggests."""

ABSENT = ("", "NaN", "nan", "NA", "N/A", "n/a", "NULL", "null", "None", "<NA>", "#N/A")
"""What a missing number is written as in a text file; a missing text is an empty cell."""

TRUTH = {"true": 1, "false": 0}
"""What truth values in a text file are, in lower case."""

INDEX = "__index_level_0__"
"""Name of the column in which pandas writes an index without a name into a Parquet file."""


@dataclass(frozen=True)
class TableFile(Source):
    """A table in a ``.csv``, ``.tsv`` or ``.parquet`` file: a datum in each row, a feature in each column of numbers.

    The first line of a text file names the columns. x is ``(N, features)``, of real values unless told otherwise. A
    column of labels is none of its features: whole numbers are labels as they are, and texts are coded 0, 1, ... in
    their alphabetical order, which ``classes`` records. So are other columns that are asked for as tensors; numbers
    with a fraction among them become float32. Where there is a column ``split``, its texts train, valid and test say
    where each row belongs; else the rows are split 80/10/10 by a fixed permutation. Rows are counted from 1 in
    messages, without the line of names.

    Attributes:
        path: the file.
        label_column: name of the column of labels.
        split_column: name of the column of splits, which need not be there.
        features: names of the columns that make x, in this order; by default all others.
        drop: names of columns that are left out.
        tensors: names of the columns that follow x in each datum, in this order; ``labels`` is the column of labels.
        values: what x is: real, counts or pixels.
        standardize: whether each feature is standardised by the training data's mean and standard deviation.
        missing: refuse or mask: whether missing cells are refused, or filled with 0 and marked in a mask that follows
            x.
        separator: between the cells of a text file; by default a comma, in ``.tsv`` a tab.
    """

    path: Path
    label_column: str | None = None
    split_column: str = "split"
    features: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    values: str = "real"
    standardize: bool = False
    missing: str = "refuse"
    separator: str | None = None
    binarizations = GREY_BY_DEFAULT
    needs_root = False
    options = (
        "label_column", "split_column", "features", "drop", "tensors", "values", "standardize", "missing", "separator",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("features", "drop", "tensors"):
            object.__setattr__(self, name, check_names(name, getattr(self, name)))
        for name in ("label_column", "split_column", "separator"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and (value is not None or name == "split_column"):
                raise ValueError(f"load_data: {name} must be a text; got {in_short(value)}.")
        if self.separator is not None and len(self.separator) != 1:
            raise ValueError(f"load_data: separator must be one character; got {in_short(self.separator)}.")
        if self.values is None:
            raise ValueError("load_data: values must be one of pixels, real, counts for a table; got None.")
        _ = self._values

    @property
    def _values(self) -> Values:
        return Values(self.values, self.standardize, self.missing)

    @property
    def datum(self) -> tuple[str, ...]:
        """The mask where one is made, then the tensors that were asked for."""
        return ((MASK,) if self.missing == MASK else ()) + self.tensors

    def load(self, request: Request) -> Splits:
        """Read and check the table."""
        names = self._names()
        columns = self._columns_of_x(names)
        further = [name for name in self.tensors if name != "labels"]
        table = self._read(names)
        if not len(table):
            raise ValueError(f"load_data: {self.path} has no rows below the names of its columns.")
        x = np.stack([self._numbers(table[name], name) for name in columns], axis=1)
        self._check_cells(x, columns)
        stored = self._values.stored(x, str(self.path), columns)
        classes: dict[str, tuple[str, ...]] = {}
        labels = None
        if self.label_column is not None:
            labels, classes["labels"] = self._coded(table[self.label_column], self.label_column)
        tensors = dict(stored.tensors)
        for name in further:
            tensors[name], classes[name] = self._further(table[name], name)
        data = Split(stored.images, labels, tensors)
        if self.split_column in names:
            splits = given_splits(self._split(data, table[self.split_column]), request.valid_size, self.path)
        else:
            splits = split_randomly(data, request.valid_size, self.path)
        finished = self._values.finished(splits, str(self.path), columns)
        return Splits(
            finished.train, finished.valid, finished.test, finished.source, finished.values, finished.shift,
            finished.scale, {name: texts for name, texts in classes.items() if texts},
        )  # fmt: skip

    def _names(self) -> list[str]:
        """Return the names of all columns, of which the options may name some.

        Raises:
            ValueError: a column has no name or that of another one, or the first line seems to be data.
        """
        names = _names_in_parquet(self.path) if _is_parquet(self.path) else self._names_in_text()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"load_data: {self.path} has {names.count(twice[0])} columns {twice[0]!r}: rename them.")
        if self.label_column is None and "labels" in self.tensors:
            raise ValueError(
                f"load_data: {self.path}: tensors asks for labels; say which column they are: "
                f"{data_option('label_column', 'COLUMN')}."
            )
        asked = {
            "label_column": [self.label_column] if self.label_column else [], "features": self.features,
            "drop": self.drop, "tensors": [name for name in self.tensors if name != "labels"],
        }  # fmt: skip
        for option, wanted in asked.items():
            for name in wanted:
                if name not in names:
                    raise ValueError(
                        f"load_data: {self.path} has no column {name!r}, which {option} names."
                        f"{did_you_mean(name, names)} There are {_listed(names)}."
                    )
        return names

    def _names_in_text(self) -> list[str]:
        separator = self._separator
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                names = [name.strip() for name in next(csv.reader(file, delimiter=separator), [])]
        except PermissionError:  # no damage; its message names the file
            raise
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise self._damaged(error) from error
        if not names:
            raise ValueError(f"load_data: {self.path} is empty: its first line must name the columns.")
        if len(names) == 1:
            other = next((other for other in OTHERS if other != separator and other in names[0]), None)
            if other is not None:
                raise ValueError(
                    f"load_data: {self.path} has one column {names[0]!r:.60}: its cells seem to be separated by "
                    f"{other!r}; say so by {data_option('separator', other)}."
                )
        numbers = [name for name in names if _number(name) is not None and name[-1].isdigit()]
        if numbers and not _count_up(numbers):
            raise ValueError(
                f"load_data: {self.path} must name its columns in its first line; that line has {_listed(numbers)}. "
                f"Write the names above the numbers."
            )
        if "" in names:
            raise ValueError(
                f"load_data: {self.path}: column {names.index('') + 1} has no name. A data frame is written by "
                f"to_csv(path, index=False)."
            )
        return names

    @property
    def _separator(self) -> str:
        return self.separator or SEPARATORS.get(self.path.suffix.lower(), ",")

    def _columns_of_x(self, names: Sequence[str]) -> list[str]:
        """Return the names of the features.

        Raises:
            ValueError: there are none, or one is something else as well.
        """
        others = {self.split_column, self.label_column, *self.tensors}
        both = [name for name in self.features if name in others or name in self.drop]
        if both:
            raise ValueError(
                f"load_data: {self.path}: column {both[0]!r} is a feature, and also a label, split or tensor, or one "
                f"to drop: name it once."
            )
        columns = list(self.features) or [name for name in names if name not in others and name not in self.drop]
        if INDEX in columns and not self.features:
            raise ValueError(
                f"load_data: {self.path}: column {INDEX} is the index of a data frame, which is written without it by "
                f"to_parquet(path, index=False); or leave it out: {data_option('drop', (INDEX,))}."
            )
        if not columns:
            raise ValueError(f"load_data: {self.path} has no column of features; there are {_listed(names)}.")
        return columns

    def _read(self, names: Sequence[str]) -> Any:
        """Return the table, the cells of a text file as they are written.

        Raises:
            DataCorruptError: the file is damaged.
        """
        import pandas as pd  # Slow to import, and seldom needed.
        from pyarrow import parquet  # type: ignore[import-untyped]

        try:
            with warnings.catch_warnings():
                # A line with more cells than there are names would lose some.
                warnings.simplefilter("error", pd.errors.ParserWarning)
                if _is_parquet(self.path):
                    return parquet.read_table(self.path).to_pandas(ignore_metadata=True)
                return pd.read_csv(
                    self.path, sep=self._separator, header=0, names=list(names), index_col=False, dtype=object,
                    na_values=[""], keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True,
                )  # fmt: skip
        except PermissionError:  # no damage; its message names the file
            raise
        except Exception as error:  # On damage pandas and pyarrow raise whatever their parsers run into.
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataCorruptError:
        what = (
            "Parquet file" if _is_parquet(self.path) else f"table in UTF-8, its cells separated by {self._separator!r}"
        )
        return DataCorruptError(
            f"load_data: {self.path} ({self.path.stat().st_size} bytes) is not a whole {what} ({told(error)}). Write "
            f"it again."
        )

    def _numbers(self, column: Any, name: str) -> np.ndarray:
        """Return a column of numbers in float64, NaN where a cell is missing.

        Raises:
            ValueError: there is something else; the message names row and column.
        """
        import pandas as pd

        kinds = pd.api.types
        if kinds.is_numeric_dtype(column.dtype) and not kinds.is_complex_dtype(column.dtype):
            return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
        absent = np.asarray(column.isna())
        if not (absent.all() or kinds.is_object_dtype(column.dtype) or kinds.is_string_dtype(column.dtype)):
            raise ValueError(
                f"load_data: {self.path}: column {name!r} must hold numbers; it holds {column.dtype}. "
                f"{self._or_leave_out(name)}"
            )
        if not _is_parquet(self.path) and not any("_" in cell for cell in column[~absent]):
            with contextlib.suppress(ValueError):
                return np.array(list(map(float, column)))
        numbers = np.full(len(column), np.nan)
        for row, cell in enumerate(column):
            if absent[row] or (isinstance(cell, str) and cell.strip() in ABSENT):
                continue
            number = None if _is_parquet(self.path) else _number(cell)
            if number is None:
                raise ValueError(
                    f"load_data: {self.path}: column {name!r} must hold numbers; row {row + 1} has {in_short(cell)}. "
                    f"{self._or_leave_out(name)}"
                )
            numbers[row] = number
        return numbers

    def _or_leave_out(self, name: str) -> str:
        return f"Where it is no feature: {data_option('label_column', name)}, or {data_option('drop', (name,))}."

    def _check_cells(self, x: np.ndarray, columns: Sequence[str]) -> None:
        """Refuse cells that are missing, unless they are masked, and infinite ones; the message names the first."""
        infinite, absent = np.isinf(x), np.isnan(x)
        remedy = f"Fill or remove them, or keep them with a mask: {data_option('missing', MASK)}."
        for which, what, fix in (
            (infinite, "infinite", "Remove or replace them."),
            (absent & (self.missing != MASK), "missing", remedy),
        ):
            if which.any():
                row, column = (int(i) for i in np.argwhere(which)[0])
                raise ValueError(
                    f"load_data: {self.path}: {int(which.sum())} of {which.size} cells are {what}, the first in row "
                    f"{row + 1} of column {columns[column]!r}. {fix}"
                )

    def _coded(self, column: Any, name: str) -> tuple[Tensor, tuple[str, ...]]:
        """Return whole numbers as they are, and texts by their number in alphabetical order, with these texts.

        Raises:
            ValueError: a cell is missing, or is neither.
        """
        absent = np.asarray(column.isna())
        if absent.any():
            raise ValueError(
                f"load_data: {self.path}: column {name!r} must have a value in each row; row "
                f"{int(absent.argmax()) + 1} has none."
            )
        cells = [cell.item() if isinstance(cell, np.generic) else cell for cell in column]
        if all(isinstance(cell, str) for cell in cells):
            whole = [TRUTH.get(cell.lower(), _whole(re.sub(r"\.0+$", "", cell))) for cell in cells]
            if None not in whole:
                return torch.tensor(whole), ()
            numbers = [_number(cell) for cell in cells]
            if None in numbers or not any(number is not None and number % 1 for number in numbers):
                texts = sorted(set(cells))
                codes = {text: code for code, text in enumerate(texts)}
                return torch.tensor([codes[cell] for cell in cells]), tuple(texts)
        whole = [int(cell) if isinstance(cell, int | float) and cell % 1 == 0 else None for cell in cells]
        outside = [row for row, number in enumerate(whole) if number is None or abs(number) >= 2**63]
        if outside:
            row = outside[0]
            raise ValueError(
                f"load_data: {self.path}: column {name!r} must hold labels, whole numbers or texts; row {row + 1} has "
                f"{in_short(cells[row])}. Real numbers are a tensor, {data_option('tensors', (name,))}."
            )
        return torch.tensor(whole), ()

    def _further(self, column: Any, name: str) -> tuple[Tensor, tuple[str, ...]]:
        """Return a further tensor of each datum: float32, or whole numbers or coded texts, int64."""
        is_text = column.map(lambda cell: isinstance(cell, str) and _number(cell) is None).any()
        is_whole = column.map(lambda cell: isinstance(cell, int) or _whole(str(cell)) is not None).all()
        if not (is_text or is_whole or column.isna().any()) or column.dtype.kind == "f":
            numbers = self._numbers(column, name)
            wrong = ~np.isfinite(numbers)
            if wrong.any():
                row = int(wrong.argmax())
                raise ValueError(
                    f"load_data: {self.path}: column {name!r} must have a finite number in each row; row {row + 1} has "
                    f"{numbers[row]}."
                )
            return torch.from_numpy(in_float32(numbers[:, np.newaxis], str(self.path), (name,))[:, 0]), ()
        return self._coded(column, name)

    def _split(self, data: Split, column: Any) -> dict[str, Split]:
        """Return the rows of each split.

        Raises:
            ValueError: a cell is the name of no split, or none is for training.
        """
        cells = [str(cell).strip() for cell in column]
        names = [SPLIT_NAMES.get(cell.lower()) for cell in cells]
        if None in names:
            row = names.index(None)
            raise ValueError(
                f"load_data: {self.path}: column {self.split_column!r} must hold train, valid or test; row {row + 1} "
                f"has {cells[row]!r:.40}. Where it says something else, rename it, or name the column of splits: "
                f"{data_option('split_column', 'COLUMN')}."
            )
        if "train" not in names:
            raise ValueError(f"load_data: {self.path}: column {self.split_column!r} has no row of the split train.")
        found = {name: [row for row, each in enumerate(names) if each == name] for name in ("train", "valid", "test")}
        return {name: data[torch.tensor(rows)] for name, rows in found.items() if rows}


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _names_in_parquet(path: Path) -> list[str]:
    from pyarrow import parquet

    try:
        return list(parquet.read_schema(path).names)
    except PermissionError:  # no damage; its message names the file
        raise
    except Exception as error:  # On damage pyarrow raises whatever its parser runs into.
        raise DataCorruptError(
            f"load_data: {path} ({path.stat().st_size} bytes) is not a whole Parquet file ({told(error)}). Write it "
            f"again."
        ) from error


def _number(text: str) -> float | None:
    """Return the number that a text is, in full precision; None if it is none.

    >>> _number("1e-3"), _number("inf"), _number("1,5"), _number("1_5")
    (0.001, inf, None, None)
    """
    lower = text.strip().lower()
    if lower in TRUTH:
        return float(TRUTH[lower])
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _whole(text: str) -> int | None:
    """Return the whole number below 2**63 that a text is; None if it is none.

    >>> _whole("12"), _whole("012"), _whole("setosa")
    (12, None, None)
    """
    try:
        number = int(text)
    except ValueError:
        return None
    # 012 is a code, and not twelve.
    return number if str(number) == text.strip() and abs(number) < 2**63 else None


def _count_up(names: Sequence[str]) -> bool:
    """Whether names are whole numbers, each larger by 1 than the one before, as those of years or of a data frame.

    >>> _count_up(["2019", "2020"]), _count_up(["5.1", "3.5"])
    (True, False)
    """
    whole = [number for number in map(_whole, names) if number is not None]
    return len(whole) == len(names) and all(after == number + 1 for number, after in itertools.pairwise(whole))


def _listed(names: Sequence[str]) -> str:
    """Return names, of many the first six.

    >>> _listed(["a", "b"])
    'a, b'
    """
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
