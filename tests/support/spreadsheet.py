"""Opens a CSV file as a spreadsheet does."""

import csv
import io
from datetime import datetime
from decimal import Decimal

from openpyxl import Workbook

FORMULA = tuple("=+-@\t\r")  # what a spreadsheet takes a formula to begin with


def opened(content: bytes, delimiter: str, decimal_mark: str) -> Workbook:
    """What a spreadsheet makes of a CSV file: by its first bytes, then by the look of each cell."""
    text = content.decode("utf-8-sig")
    assert content.startswith(b"\xef\xbb\xbf")
    book = Workbook()
    for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
        book.active.append([read_cell(cell, decimal_mark) for cell in line])
    return book


def read_cell(cell: str, decimal_mark: str) -> object:
    """openpyxl, as a spreadsheet, takes text for a formula if it begins with `=`."""
    if cell.startswith(FORMULA) and not cell[1:2].isdigit():
        return f"={cell}"
    try:
        return Decimal(cell.replace(decimal_mark, ".")) if decimal_mark in cell or cell.isdigit() else as_time(cell)
    except ArithmeticError:
        return cell


def as_time(cell: str) -> object:
    try:
        return datetime.strptime(cell, "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return cell
