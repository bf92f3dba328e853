"""Tests runs of chains with replicas: their record, their table, their recipes."""

from gradgen import sample
from gradgen.cli.report import result_table
from gradgen.runs.plan import prepare
from gradgen.runs.record import RunRecord
from gradgen.runs.settings import make_settings
from tests.faults.tiny import make_bundle


def test_a_run_records_and_shows_what_its_replicas_exchanged():
    bundle = make_bundle()
    found = sample(bundle, "green", "mala", num_chains=2, budget=90, replicas=3, block_size=30)
    record = found.record
    (job,) = record.classes
    assert len(job.exchange_acceptance) == 2
    assert all(0 < rate < 1 for rate in job.exchange_acceptance)
    assert 0 < job.arrivals <= 2 * 30  # an arrival an exchange at most
    # three a step and three at the start, of each of two chains
    assert record.gradient_evaluations.per_chain == 93
    assert record.gradient_evaluations.total == 186
    assert RunRecord.from_json(record.to_json(), "the record") == record
    headings = [column.header for column in result_table(record).columns]
    assert headings[-2:] == ["exchanges", "arrivals"]
    assert found.recipe(0).settings.replicas == 3

    plain = sample(bundle, "green", "mala", num_chains=2, budget=30, block_size=30).record
    assert "arrivals" not in plain.to_json()["classes"][0]
    assert "arrivals" not in [column.header for column in result_table(plain).columns]


def test_groups_hold_fewer_chains_where_each_has_replicas():
    def size(**given):
        settings = make_settings({"classes": "green", "num_chains": 64, **given})
        return prepare(settings, make_bundle()).settings.chain_group

    assert [size(), size(replicas=2), size(replicas=4), size(replicas=64)] == [16, 8, 4, 4]


def test_a_record_without_replicas_is_one_of_a_single_replica():
    values = make_settings({"classes": "green"}).to_json()
    old = {name: value for name, value in values.items() if not name.startswith("replica")}
    assert type(make_settings({"classes": "green"})).from_json(old).replicas == 1
