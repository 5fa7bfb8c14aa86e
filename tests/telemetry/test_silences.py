"""Silences: what they cover, when they end, and who is told of what because of them."""

import msgspec
import pytest

from services.telemetry.app import definition
from services.telemetry.config import TelemetryConfig
from services.telemetry.decide import SILENCE_S_MAX, SILENCES_MAX
from services.telemetry.model import ALERTS
from services.telemetry.react import NOTIFY, Deliver, LookAtAlerts
from services.telemetry.state import ENDED_MAX, State
from services.telemetry.views import alerts
from services.telemetry.views import raised as gauge
from shared.commands import EndSilence, EvaluateAlerts, RecordNotification, RecordResources, SilenceAlert, SilenceReply
from shared.effects import SetTimer
from shared.events import (
    AlertCleared,
    AlertNotified,
    AlertRaised,
    Event,
    NotificationFailed,
    SilenceEnded,
    SilenceStarted,
)
from shared.ports import TimerFired
from tests.spec import AT, Given, given, record

CHANNELS = ("webhook", "email")
PARTS = definition(TelemetryConfig(), channels=CHANNELS)
ID = "01jd0000000000000000000sil"
NOTICE = "01jd0000000000000000000not"


def telemetry(*past: Event) -> Given[State]:
    return given(PARTS, *past)


def silence(pattern: str = "pool_*", until: float = AT + 600, silence_id: str = ID) -> SilenceStarted:
    return SilenceStarted(silence_id=silence_id, pattern=pattern, until=until, reason="moving", by="ann")


def wish(pattern: str = "pool_*", until: float = AT + 600, reason: str = "moving", by: str = "ann") -> SilenceAlert:
    return SilenceAlert(id=ID, pattern=pattern, until=until, reason=reason, by=by)


def raised(alert: str = "pool_empty") -> AlertRaised:
    return AlertRaised(alert=alert, message="No VM.", since=AT)


def cleared(alert: str = "pool_empty") -> AlertCleared:
    return AlertCleared(alert=alert, lasted_s=1.0)


def ended(reason: str = "asked") -> SilenceEnded:
    return SilenceEnded(silence_id=ID, reason="asked" if reason == "asked" else "expired")


def timers_of(*past: Event, at: float = AT) -> list[tuple[str, int]]:
    """(channel, sequence told of) of the timers that the last event sets."""
    spec = telemetry(*past[:-1])
    last = record(spec.log, past[-1], at=at)
    PARTS.evolve(spec.state, last)
    effects = PARTS.react(spec.state, last)
    assert all(isinstance(each, SetTimer) and each.name == NOTIFY for each in effects)
    return [(str(each.data["channel"]), int(each.data["seq"])) for each in effects if isinstance(each, SetTimer)]


# --- decisions ----------------------------------------------------------------------------------------------------


def test_a_silence_is_of_a_name_or_a_beginning() -> None:
    spec = telemetry().when(wish()).then(silence())

    assert spec.answer() == SilenceReply(silence_id=ID)
    spec.when(wish()).stays_quiet()
    telemetry().when(wish("*")).then(silence("*"))
    telemetry().when(wish("install_slow")).then(silence("install_slow"))


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (wish(""), "bad_pattern"),
        (wish("pool*empty"), "bad_pattern"),
        (wish("Pool_Empty"), "bad_pattern"),
        (wish("**"), "bad_pattern"),
        (wish("a" * 100), "bad_pattern"),
        (wish("error_rat"), "unknown_alert"),
        (wish("nope*"), "unknown_alert"),
        (wish(until=AT), "bad_until"),
        (wish(until=AT + SILENCE_S_MAX + 1), "bad_until"),
        (wish(until=float("inf")), "bad_until"),
        (wish(until=float("nan")), "bad_until"),
        (wish(reason="x" * 501), "bad_reason"),
        (wish(by="x" * 101), "bad_reason"),
        (wish(reason="\ud800"), "bad_reason"),
        (wish(reason="it\nCRITICAL looks like another"), "bad_reason"),
        (wish(by="\x1b[31m"), "bad_reason"),
    ],
)
def test_what_makes_no_sense_is_refused(command: SilenceAlert, code: str) -> None:
    telemetry().when(command).refuses(code)


@pytest.mark.parametrize("pattern", ["*", "pool_*", "pool_empty", "pool_empty-large", "pool_empty-la*", "error_rate*"])
def test_a_pattern_names_alerts_and_those_of_pools(pattern: str) -> None:
    """Pools come and go, so their names are not looked at."""
    telemetry().when(wish(pattern)).then(silence(pattern))


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (RecordResources(day="a b"), "bad_day"),
        (RecordResources(day=""), "bad_day"),
        (RecordNotification(alert="a.b", channel="email", kind="raised", notice=NOTICE, attempts=1), "bad_alert"),
        (RecordNotification(alert="", channel="email", kind="raised", notice=NOTICE, attempts=1), "bad_alert"),
    ],
)
def test_what_names_an_aggregate_is_a_name(command: RecordResources | RecordNotification, code: str) -> None:
    """It becomes part of a subject."""
    telemetry().when(command).refuses(code)


def test_silences_are_bounded() -> None:
    """In number; those that are over are remembered to a bound, too."""
    many = [silence(silence_id=f"01jd00000000000000000{number:05d}") for number in range(SILENCES_MAX)]
    telemetry(*many).when(wish()).refuses("too_many_silences")

    over: list[Event] = []
    for number in range(ENDED_MAX + 7):
        name = f"01jd00000000000000000{number:05d}"
        over += [silence(silence_id=name), SilenceEnded(silence_id=name, reason="asked")]
    state = telemetry(*over).state
    assert (len(state.silences), len(state.silences_ended)) == (0, ENDED_MAX)


def test_a_silence_is_ended_once_and_an_unknown_one_is_not_found() -> None:
    spec = telemetry(silence()).when(EndSilence(silence_id=ID, by="ben"))
    spec.then(SilenceEnded(silence_id=ID, reason="asked", by="ben"))
    spec.when(EndSilence(id="01jd0000000000000000000two", silence_id=ID)).stays_quiet()
    telemetry().when(EndSilence(silence_id=ID)).refuses("silence_not_found")
    telemetry(silence()).when(EndSilence(silence_id=ID, by="x" * 101)).refuses("bad_reason")


def test_a_silence_whose_time_is_up_ends_at_the_next_tick() -> None:
    spec = telemetry(silence(until=AT + 60))

    spec.when(EvaluateAlerts(at=AT + 59)).stays_quiet()
    spec.when(EvaluateAlerts(id="t2", at=AT + 60)).then(SilenceEnded(silence_id=ID, reason="expired"))
    spec.when(EvaluateAlerts(id="t3", at=AT + 65)).stays_quiet()


def test_what_came_of_a_notice_is_recorded_once() -> None:
    """By the command's id, which follows from the notice and the channel."""
    report = RecordNotification(
        id="01jd0000000000000000000rep",
        alert="pool_empty",
        channel="webhook",
        kind="raised",
        notice=NOTICE,
        attempts=2,
    )
    done = AlertNotified(alert="pool_empty", channel="webhook", kind="raised", notice=NOTICE, attempts=2)
    telemetry(raised()).when(report).then(done)
    failed = NotificationFailed(
        alert="pool_empty", channel="webhook", kind="raised", notice=NOTICE, attempts=2, code="http_500"
    )
    telemetry(raised()).when(msgspec.structs.replace(report, code="http_500")).then(failed)


# --- who is told --------------------------------------------------------------------------------------------------


def test_every_channel_is_told_of_an_alert_and_of_its_end() -> None:
    """Each by a timer of its own."""
    assert timers_of(raised()) == [("webhook", 1), ("email", 1)]
    assert timers_of(raised(), cleared()) == [("webhook", 2), ("email", 2)]


def test_without_channels_nobody_is_told() -> None:
    parts = definition(TelemetryConfig())
    spec = given(parts, raised())

    assert parts.react(spec.state, spec.log[-1]) == []


def test_a_silenced_alert_is_raised_and_told_to_nobody() -> None:
    """Nor is its end; another alert is."""
    assert timers_of(silence(), raised()) == []
    assert timers_of(silence(), raised(), cleared()) == []
    assert timers_of(silence(), raised("error_rate")) == [("webhook", 2), ("email", 2)]
    shown = alerts(telemetry(silence(), raised()).state, AT).alerts
    assert [(each.alert, each.silenced) for each in shown] == [("pool_empty", True)]


@pytest.mark.parametrize("reason", ["asked", "expired"])
def test_what_still_holds_when_a_silence_ends_is_told_then(reason: str) -> None:
    """Once: it is told of the alert, not of the silence."""
    assert timers_of(silence(), raised(), ended(reason)) == [("webhook", 2), ("email", 2)]
    assert timers_of(silence(), raised(), ended(reason), cleared()) == [("webhook", 4), ("email", 4)]


def test_what_was_told_before_a_silence_is_not_told_again_at_its_end() -> None:
    """Only its own end is told, silenced or not: who was told that it began wants to know."""
    assert timers_of(raised(), silence(), ended()) == []
    assert timers_of(raised(), silence(), cleared()) == [("webhook", 3), ("email", 3)]


def test_one_silence_of_two_that_ends_tells_nobody() -> None:
    other = silence("*", silence_id="01jd0000000000000000000oth")

    assert timers_of(silence(), other, raised(), ended()) == []


def test_a_silence_whose_time_is_up_silences_nothing_though_nobody_has_ended_it_yet() -> None:
    """Between two ticks."""
    assert timers_of(silence(until=AT + 60), raised(), at=AT + 61) == [("webhook", 2), ("email", 2)]


def test_ticks_and_notices_are_timers() -> None:
    state = telemetry().state
    data: dict[str, str | int] = {"channel": "email", "seq": 7, "attempt": 3}

    assert PARTS.on_timer(state, TimerFired(name="alerts", id="", key="k")) == [LookAtAlerts()]
    notify = TimerFired(name=NOTIFY, id="x", key="k", data=data)
    assert PARTS.on_timer(state, notify) == [Deliver(channel="email", seq=7, attempt=3)]
    assert PARTS.on_timer(state, TimerFired(name="older", id="", key="k")) == []


# --- what is shown ------------------------------------------------------------------------------------------------


def test_alerts_show_who_was_told_of_them_also_when_they_are_over() -> None:
    """Of an alert that has ended, also who was told of its end."""
    spec = telemetry(raised())
    notice = spec.log[0].meta.id
    told = AlertNotified(alert="pool_empty", channel="webhook", kind="raised", notice=notice, attempts=1)
    spec = telemetry(raised(), told)
    assert [each.channel for each in alerts(spec.state, AT, CHANNELS).alerts[0].notifications] == ["webhook"]

    spec = telemetry(raised(), told, cleared())
    end = spec.log[-1].meta.id
    failed = NotificationFailed(
        alert="pool_empty", channel="email", kind="cleared", notice=end, attempts=8, code="timeout"
    )
    shown = alerts(telemetry(raised(), told, cleared(), failed).state, AT, CHANNELS)
    assert (shown.alerts, [each.alert for each in shown.recent], shown.channels) == ([], ["pool_empty"], CHANNELS)
    notices = [(each.channel, each.kind, each.code) for each in shown.recent[0].notifications]
    assert notices == [("webhook", "raised", ""), ("email", "cleared", "timeout")]
    assert shown.recent[0].cleared_at == AT


def test_silences_are_shown_while_they_last() -> None:
    later = silence("*", until=AT + 30, silence_id="01jd0000000000000000000oth")
    state = telemetry(silence(), later).state

    assert [each.pattern for each in alerts(state, AT).silences] == ["*", "pool_*"]
    assert [each.pattern for each in alerts(state, AT + 31).silences] == ["pool_*"]


def test_the_metric_has_every_alert_and_says_which_are_raised() -> None:
    """A pool's own, too; no value is anybody's id."""
    seen = {each.attributes["drape.alert"]: each.value for each in gauge(telemetry(raised()).state)}
    large = gauge(telemetry(raised("pool_empty-large")).state)

    assert seen == {**dict.fromkeys(ALERTS, 0), "pool_empty": 1}
    assert len(ALERTS) == 8
    assert [each.value for each in large if (each.attributes or {})["drape.alert"] == "pool_empty-large"] == [1]
