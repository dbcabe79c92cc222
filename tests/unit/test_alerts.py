"""Each alert of deploy/prometheus fires when it should and is silent when it should be, as promtool computes it."""

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import yaml

from daemon.jobs.metrics import STATES
from tests.support.debian import program
from tests.support.docs import RUNBOOK
from tests.support.prometheus_tools import FOLDER, RULES, promtool


class Case(NamedTuple):
    """Series in promtool's notation (one value a minute unless `interval` says otherwise), and when to look."""

    series: dict[str, str]
    at: str = "5m"
    interval: str = "1m"


def deliveries(ok: str, failed: str) -> dict[str, str]:
    """Stripe's requests, answered 200 and 503."""
    request = 'http_requests_total{{route="/webhooks/stripe",method="POST",status="{}"}}'
    return {request.format(200): ok, request.format(503): failed}


def events(type_: str, values: str, outcome: str = "applied") -> dict[str, str]:
    return {f'webhook_events_total{{type="{type_}",outcome="{outcome}"}}': values}


def state(name: str, values: str) -> dict[str, str]:
    return {f'supervisord_process_state{{process="api_00",state="{name}"}}': values}


def jobs(host: str, state: str) -> dict[str, str]:
    """The jobs process of a host, for a while."""
    return {f'jobs_state{{host="{host}",state="{each}"}}': f"{int(each == state)}x10" for each in STATES}


def job(name: str, *, every_s: int, succeeded_s: int) -> dict[str, str]:
    """A job that last succeeded so many seconds after the beginning, as two hosts show it."""
    return {
        f'{metric}{{host="{host}",name="{name}"}}': f"{value}x200"
        for host in ("a", "b")
        for metric, value in {
            "job_last_success_timestamp_seconds": succeeded_s,
            "job_interval_seconds": every_s,
        }.items()
    }


RESTARTS = 'supervisord_process_restarts_total{process="sidecar"}'
PING_FAILURES = {"db_consecutive_ping_failures": "0x10"}
A_WEEK = 7 * 24 * 2  # half hours

# Alert -> a case that fires it, a case that does not.
CASES = {
    "DatabaseNotReady": (Case({"db_ready": "0x10"}), Case({"db_ready": "1x10"})),
    "DatabasePingsFailing": (
        Case({"db_consecutive_ping_failures": "3x10"}),
        Case({"db_consecutive_ping_failures": "2x10"}),
    ),
    "StartupGateFailed": (
        Case({'startup_gate_runs_total{outcome="failed"}': "0 0 0 1 1 1"}),
        Case(
            {'startup_gate_runs_total{outcome="failed"}': "7x10", 'startup_gate_runs_total{outcome="passed"}': "0+1x10"}
        ),
    ),
    "SidecarDown": (Case({'up{job="donationd"}': "1 1 0x10"}), Case({'up{job="donationd"}': "1 0 1x10"})),
    "ProcessFatal": (Case(state("FATAL", "0 1x10")), Case(state("FATAL", "0x10") | state("RUNNING", "0x10"))),
    "ProcessRestarting": (
        Case({RESTARTS: "0+1x10"}, at="10m"),
        Case({RESTARTS: "0 0 0 1 1 1 2 2 2 2 2"}, at="10m"),
    ),
    "SupervisordUnreachable": (
        Case({"supervisord_reachable": "1 0x10"}),
        Case({"supervisord_reachable": "1 0 1x10"}),
    ),
    "ProcessHung": (
        Case({'supervisord_process_hangs_total{process="sidecar"}': "0 0 1x10"}),
        Case({'supervisord_process_hangs_total{process="sidecar"}': "2x10"}),
    ),
    "ProcessNotRunning": (Case(state("RUNNING", "0x10"), at="6m"), Case(state("RUNNING", "1 0 0 0 1x10"), at="6m")),
    "LedgerPositionLost": (
        Case({"ledger_position_lost": "0 0 0 1x10"}),
        Case({"ledger_position_lost": "1 1 0x10"}),
    ),
    "ReadReplicaUnusable": (
        Case({'read_replica_state{state="unusable"}': "1x10"}, at="6m"),
        Case({'read_replica_state{state="unusable"}': "1 1 0 1x10"}, at="6m"),
    ),
    "WebhookErrorsFast": (
        Case(deliveries("0+98x70", "0+2x70"), at="65m"),
        Case(deliveries("0+98x60 5880+100x20", "0+2x50 100x30"), at="75m"),  # it is over
    ),
    "WebhookErrorsSlow": (
        Case(deliveries("0+990x40", "0+10x40"), at="40m"),
        Case(deliveries("0+995x40", "0+5x40"), at="40m"),
    ),
    "DatabasePingFailed": (
        Case(PING_FAILURES | {"db_ping_failures_total": "4 4 4 5 5 5"}),
        Case(PING_FAILURES | {"db_ping_failures_total": "5x10"}),
    ),
    "DatabaseLastPingError": (
        Case({'db_last_ping_error{error="timeout"}': "1x10"}),
        Case({'db_last_ping_error{error="timeout"}': "1 1 stale"}),
    ),
    "DonationRefunded": (
        Case(events("refund.created", "0 0 0 1 1 1")),
        Case(events("refund.created", "3x10") | events("refund.created", "0+1x10", outcome="duplicate")),
    ),
    "DisputeOpened": (
        Case(events("charge.dispute.created", "0 0 0 1 1 1")),
        Case(events("charge.dispute.created", "1x10") | events("charge.dispute.closed", "0+1x10")),
    ),
    "MoneyUnassigned": (
        Case({"donations_unassigned": "1x30"}, at="16m"),
        Case({"donations_unassigned": "1x10 0x20"}, at="16m"),
    ),
    "MailsUndelivered": (
        Case({"mails_undelivered": "1x30"}, at="16m"),
        Case({"mails_undelivered": "1x10 0x20"}, at="16m"),
    ),
    "MailsLate": (
        Case({"mail_delay_seconds": "0+60x90"}, at="50m"),
        Case({"mail_delay_seconds": "0+60x20 0x40"}, at="50m"),
    ),
    "CheckoutsExpiring": (
        Case(
            events("checkout.session.expired", "0+9x60") | events("checkout.session.completed", "0+1x60"),
            at="30h",
            interval="30m",
        ),
        Case(
            events("checkout.session.expired", "0+7x60") | events("checkout.session.completed", "0+3x60"),
            at="30h",
            interval="30m",
        ),
    ),
    "WebhooksMissing": (
        Case(events("charge.succeeded", f"0+15x{A_WEEK} 5040x10"), at="171h", interval="30m"),
        Case(events("charge.succeeded", f"0+15x{A_WEEK + 10}"), at="171h", interval="30m"),
    ),
    "WebhooksRefused": (
        Case({'webhook_refused_total{reason="mismatch"}': "0+1x30"} | events("other", "9x30", "ignored"), at="20m"),
        Case({'webhook_refused_total{reason="mismatch"}': "0+1x30"} | events("other", "0+1x30", "ignored"), at="20m"),
    ),
    "EventsFailedWaiting": (
        Case({"webhook_events_failed_waiting": "2x10"}, at="6m"),
        Case({"webhook_events_failed_waiting": "0 2 2 0x10"}, at="6m"),
    ),
    "LogLinesDropped": (
        Case({'log_lines_dropped_total{process="api"}': "0 0 0 70 70 70"}),
        Case({'log_lines_dropped_total{process="api"}': "70x10"}),
    ),
    "CardTesting": (
        Case({'fraud_signals{signal="card-testing",level="alarm"}': "0 0 1x10"}),
        Case(
            {
                'fraud_signals{signal="card-testing",level="alarm"}': "0x10",
                'fraud_signals{signal="card-testing",level="suspicious"}': "2x10",
            }
        ),
    ),
    "FraudSuspected": (
        Case({'fraud_signals{signal="burst",level="suspicious"}': "0 0 1x10"}),
        Case(
            {
                'fraud_signals{signal="burst",level="suspicious"}': "0x10",
                'fraud_signals{signal="early-warning",level="suspicious"}': "2x10",
            }
        ),
    ),
    "EarlyFraudWarning": (
        Case({'fraud_signals{signal="early-warning",level="suspicious"}': "0 0 1x10"}),
        Case({'fraud_signals{signal="early-warning",level="suspicious"}': "3 0x10"}),
    ),
    "JobsNotRunning": (
        Case(jobs("a", "waiting") | jobs("b", "running_without_stripe"), at="6m"),
        Case(jobs("a", "waiting_without_stripe") | jobs("b", "running_without_stripe"), at="6m"),
    ),
    "JobLate": (
        Case(job("daily", every_s=86400, succeeded_s=0), at="50h", interval="30m"),
        Case(job("daily", every_s=86400, succeeded_s=7200), at="50h", interval="30m"),
    ),
    "JobFoundProblems": (
        Case({'job_problems{name="daily"}': "2x10"}, at="6m"),
        Case({'job_problems{name="daily"}': "2 2 0x10"}, at="6m"),
    ),
    "LedgerDrift": (
        Case({'job_problems{name="reconcile"}': "2x10"}, at="6m"),
        Case({'job_problems{name="reconcile"}': "2 0x10", 'job_problems{name="check_account"}': "2x10"}, at="6m"),
    ),
    "MigrationsMissing": (
        Case({"schema_migrations_missing": "2x90"}, at="65m"),
        Case({"schema_migrations_missing": "2x50 0x40"}, at="65m"),
    ),
    "ClockSkew": (
        Case({"webhook_clock_skew_seconds": "-45x10"}, at="6m"),
        Case({"webhook_clock_skew_seconds": "2x3 45 2x10"}, at="6m"),
    ),
}


def alert_names() -> list[str]:
    return re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.MULTILINE)


def test_every_alert_has_both_cases_and_a_page_in_the_runbook() -> None:
    """Each alert is shown to fire, and the person on call finds what to do about it."""
    names = alert_names()
    assert sorted(CASES) == sorted(names)
    headings = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(names)
    for name in names:
        assert f"runbook: deploy/docs/runbook.md#{name.lower()}\n" in RULES.read_text()


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    """Severity, summary, meaning, action and page, in each."""
    for rule in RULES.read_text().split("- alert: ")[1:]:
        found = re.findall(r"^ +(?:labels: {)?(\w+):", rule, re.MULTILINE)
        assert {"severity", "summary", "meaning", "action", "runbook"} <= set(found), rule


def test_each_alert_fires_in_its_one_case_and_not_in_its_other(tmp_path: Path) -> None:
    """promtool names the cases that do not hold. A case is computed with the rule of its alert only: with all rules it
    takes ten times as long."""
    for alert, cases in CASES.items():
        rules = tmp_path / f"{alert}.rules.yml"
        rules.write_text(json.dumps(_rules_of(alert)))  # JSON is YAML
        for case, fires in zip(cases, (True, False), strict=True):
            test = _as_promtool(f"{alert} {'fires' if fires else 'is silent'}", alert, case, fires)
            file = {"rule_files": [str(rules)], "evaluation_interval": case.interval, "tests": [test]}
            (tmp_path / f"{alert}.{fires}.test.yml").write_text(json.dumps(file))
    promtool("test", "rules", *sorted(tmp_path.glob("*.test.yml")))


def _rules_of(alert: str) -> dict[str, object]:
    """The rule of an alert, with the recorded expressions that it uses."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    [wanted] = [rule for rule in rules if rule.get("alert") == alert]
    recorded = [rule for rule in rules if rule.get("record", "-") in wanted["expr"]]
    return {"groups": [{"name": "one", "rules": [*recorded, wanted]}]}


def _as_promtool(title: str, alert: str, case: Case, fires: bool) -> dict[str, object]:
    count = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    expected = [{"labels": "{}", "value": 1}] if fires else []
    return {
        "name": title,
        "interval": case.interval,
        "input_series": [{"series": _as_scraped(name), "values": values} for name, values in case.series.items()],
        "promql_expr_test": [{"expr": count, "eval_time": case.at, "exp_samples": expected}],
    }


def _as_scraped(series: str) -> str:
    """A series with the labels that a scrape adds."""
    name, _, own = series.partition("{")
    labels = [label for label in own.rstrip("}").split(",") if label]
    added = [label for label in ('job="donationd"', 'instance="here"') if label not in labels]
    return f"{name}{{{','.join(labels + added)}}}"


def test_the_example_configurations_are_sound() -> None:
    """Prometheus and Alertmanager take them as they are shipped."""
    promtool("check", "config", FOLDER / "prometheus.yml")
    checker = program("amtool", "prometheus-alertmanager")
    done = subprocess.run(
        [checker, "check-config", FOLDER / "alertmanager.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
