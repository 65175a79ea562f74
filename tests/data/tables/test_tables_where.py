import math

import numpy as np
import pytest

from vaekit.data.tables import Event, TableColumn, parse_where
from vaekit.errors import ConfigError

INF = math.inf
COLUMNS = [
    TableColumn(name="income", type="binary", categories=("<=50K", ">50K")),
    TableColumn(name="age", type="integer", low=17, high=90, words=(">90",), missing=True),
    TableColumn(name="age group", type="ordinal", categories=("young", "middle", "old")),
    TableColumn(name="city", type="categorical", categories=("New York", "a|b", "a", "b", "null"), missing=True),
    TableColumn(name="day", type="datetime", low=0, high=2e15, format="%Y-%m-%d %H:%M"),
    TableColumn(name="a>", type="continuous", low=0, high=1),
    TableColumn(name="id", type="identifier", format="5+"),
    TableColumn(name="flag", type="binary", categories=("0", "1")),
]
DAY = 86_400e6
FEBRUARY = 1580515200e6


@pytest.mark.parametrize(
    ("text", "index", "event"),
    [
        ("income=>50K", 0, Event(codes=(1,))),
        ("income=<=50K", 0, Event(codes=(0,))),
        ("income!=>50K", 0, Event(codes=(0,))),
        ("income = >50K", 0, Event(codes=(1,))),
        ("age>=30", 1, Event(intervals=((30.0, INF, True, False),))),
        ("age>30", 1, Event(intervals=((30.0, INF, False, False),))),
        ("age<=30", 1, Event(intervals=((-INF, 30.0, False, True),))),
        ("age=>90", 1, Event(words=(1,))),
        ("age=30..40", 1, Event(intervals=((30.0, 40.0, True, True),))),
        ("age=..40", 1, Event(intervals=((-INF, 40.0, False, True),))),
        ("age=", 1, Event(missing=True)),
        ("age=null", 1, Event(missing=True)),
        ("age!=null", 1, Event(intervals=((-INF, INF, False, False),), words=(1,))),
        ("age!=30", 1, Event(intervals=((-INF, 30.0, False, False), (30.0, INF, False, False)), words=(1,))),
        ("age=30|40|>90", 1, Event(intervals=((30.0, 30.0, True, True), (40.0, 40.0, True, True)), words=(1,))),
        ("age group=old", 2, Event(codes=(2,))),
        ("age group<old", 2, Event(codes=(0, 1))),
        ("age group>=middle", 2, Event(codes=(1, 2))),
        ("city=a|b", 3, Event(codes=(1,))),
        ("city=a|New York", 3, Event(codes=(0, 2))),
        ("city=a|b|New York", 3, Event(codes=(0, 1))),
        ("city=null", 3, Event(codes=(4,))),
        ("city=", 3, Event(missing=True)),
        ("city=new york", 3, Event(codes=(0,))),
        ("city!=a", 3, Event(codes=(0, 1, 3, 4))),
        ("day=2020-02-01", 4, Event(intervals=((FEBRUARY, FEBRUARY + DAY, True, False),))),
        ("day=2020-02-01..2020-02-03", 4, Event(intervals=((FEBRUARY, FEBRUARY + 3 * DAY, True, False),))),
        ("day<2020-02-01", 4, Event(intervals=((-INF, FEBRUARY, False, False),))),
        ("day>2020-02-01", 4, Event(intervals=((FEBRUARY + DAY, INF, True, False),))),
        ("day=2020-02-01 00:30", 4, Event(intervals=((FEBRUARY + 1.8e9, FEBRUARY + 1.8e9, True, True),))),
        ("a>>0.5", 5, Event(intervals=((0.5, INF, False, False),))),
        ("flag=1.0", 7, Event(codes=(1,))),
        ("flag>0", 7, Event(codes=(1,))),
    ],
)
def test_expressions(text, index, event):
    assert parse_where([text], COLUMNS) == {index: event}


def test_several_on_one_column_must_all_hold():
    assert parse_where(["age>=30", "age<40", "age!=35"], COLUMNS)[1] == Event(
        intervals=((30.0, 35.0, True, False), (35.0, 40.0, False, False))
    )
    assert set(parse_where(["age>1", "income=>50K"], COLUMNS)) == {0, 1}
    with pytest.raises(ConfigError, match="together with the others"):
        parse_where(["age>50", "age<40"], COLUMNS)


def test_a_dict_says_the_same():
    found = parse_where(
        {"income": ">50K", "age": (30, 40), "city": ["a", "b"], "age group": ">=middle", "flag": True and 1}, COLUMNS
    )
    assert found == parse_where(
        ["income=>50K", "age=30..40", "city!=New York|a|b|null", "age group>=middle", "flag=1"], COLUMNS
    ) | {3: Event(codes=(2, 3))}
    assert parse_where({"age": None}, COLUMNS) == {1: Event(missing=True)}
    assert parse_where({"age": ">=30"}, COLUMNS) == parse_where(["age>=30"], COLUMNS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("incme=>50K", "Did you mean `income`"),
        ("city=New Yrk", "Did you mean `New York`"),
        ("income=", "no missing cell"),
        ("city<a", "without an order"),
        ("age=old", "with a number"),
        ("day=soon", "with a date"),
        ("id=3", "identifier"),
        ("age=40..30", "from the lesser"),
        ("nothing", "must be a column"),
        ("flag>1", "must be possible"),
    ],
)
def test_what_cannot_be_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_where([text], COLUMNS)


def test_events_hold_of_cells():
    values, states = np.array([25.0, 30.0, np.nan, np.nan, np.nan]), np.array([0.0, 0.0, 1.0, 2.0, 0.0])

    def holds(text):
        return parse_where([text], COLUMNS)[1].holds(values, states, COLUMNS[1]).tolist()

    assert holds("age>=30") == [False, True, False, False, False]
    assert holds("age!=30") == [True, False, True, False, False]
    assert holds("age=null") == [False, False, False, True, False]
    assert holds("age!=null") == [True, True, True, False, False]
