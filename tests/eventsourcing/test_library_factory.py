"""The factory: its settings, its streams, and that nothing of it is left when it is closed, or forgotten."""

import contextlib
import gc
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from eventsourcing.persistence import (
    InfrastructureFactory,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    Tracking,
)
from eventsourcing.utils import Environment

from adapters import eventsourcing_portal
from adapters.embedded_probe import free_port
from adapters.eventsourcing_jetstream import JetStreamFactory
from adapters.jetstream.connection import api
from tests.eventsourcing.recorders import Workshop, events, stored
from tests.platform.source_tree import ROOT


@pytest.fixture
def workshop(settings):
    with Workshop(settings.nats_url) as made:
        yield made


def open_sockets():
    """Where Linux tells; files that other threads of this process read (logs of the servers) come and go."""
    listed = Path("/proc/self/fd")
    names = []
    for one in listed.iterdir() if listed.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            names.append(str(one.readlink()))
    return sorted(name for name in names if name.startswith("socket:"))


OLDER = set()


@pytest.fixture(autouse=True)
def _what_other_tests_left():
    gc.collect()
    OLDER.clear()
    OLDER.update(threading.enumerate())


def our_threads():
    return [thread for thread in threading.enumerate() if thread not in OLDER and thread.name.startswith("jetstream ")]


def ask(recorder, subject, body):
    store = recorder._store
    return store.portal.call(api(store.portal.client, f"{subject}.{store.names.stream}", body))


def test_the_module_names_one_factory(settings):
    env = {"PERSISTENCE_MODULE": "adapters.eventsourcing_jetstream", "NATS_URL": settings.nats_url}

    factory = InfrastructureFactory.construct(env)

    assert type(factory) is JetStreamFactory
    assert our_threads() == []


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({}, "APP_JETSTREAM_URL, JETSTREAM_URL, APP_NATS_URL, NATS_URL"),
        ({"JETSTREAM_URL": "nats://x", "JETSTREAM_PREFIX": "a.b"}, "JETSTREAM_PREFIX"),
        ({"JETSTREAM_URL": "nats://x", "JETSTREAM_REPLICAS": "2"}, "wanted 1, 3 or 5"),
    ],
)
def test_a_setting_that_is_missing_or_unusable_is_named(env, words):
    with pytest.raises(OSError, match=words):
        JetStreamFactory(Environment("App", env))


def test_a_server_that_is_not_there_is_an_operational_error_without_the_password(monkeypatch):
    monkeypatch.setattr(eventsourcing_portal, "CONNECT_WITHIN_S", 0.5)
    env = {"JETSTREAM_URL": f"nats://ada:secret@127.0.0.1:{free_port()}"}

    with contextlib.closing(JetStreamFactory(env)) as factory:
        with pytest.raises(OperationalError, match="no NATS server answers") as raised:
            factory.application_recorder()
        assert "secret" not in str(raised.value)
        assert our_threads() == []


def test_a_closed_factory_leaves_no_thread_and_no_socket(workshop):
    before = open_sockets()
    factory = workshop.factory()
    recorder = factory.application_recorder()
    recorder.insert_events(events("a", 1))

    factory.close()
    factory.close()

    assert our_threads() == []
    assert open_sockets() == before
    with pytest.raises(InterfaceError):
        recorder.insert_events(events("a", 2))
    with pytest.raises(InterfaceError):
        factory.application_recorder()


def test_a_factory_that_nobody_closed_ends_when_its_last_recorder_is_collected(workshop):
    recorder = JetStreamFactory(Environment("App", workshop.env)).application_recorder()
    gc.collect()
    recorder.insert_events(events("a", 1))
    assert len(our_threads()) == 1

    del recorder
    gc.collect()

    assert our_threads() == []


def test_a_program_that_closes_nothing_ends_at_once_and_quietly(workshop):
    program = (
        "from eventsourcing.application import Application\n"
        "from eventsourcing.domain import Aggregate\n"
        "app = Application()\n"
        "print(app.save(Aggregate())[0].notification.id)\n"
        "subscription = iter(app.recorder.subscribe(gt=0))\n"
        "print(next(subscription).originator_version)\n"
    )
    env = os.environ | workshop.env | {"PERSISTENCE_MODULE": "adapters.eventsourcing_jetstream"}

    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\n1\n", "")


def test_the_program_of_the_documentation_prints_what_it_says(workshop):
    program = (ROOT / "docs/eventsourcing.md").read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    env = os.environ | workshop.env | {"PERSISTENCE_MODULE": "adapters.eventsourcing_jetstream"}

    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "2\n", "")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of what is tested here
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_told_and_does_not_hang(workshop):
    recorder = workshop.factory().application_recorder()
    child = os.fork()
    if child == 0:
        try:
            recorder.max_notification_id()
        except InterfaceError:
            os._exit(7)
        os._exit(1)

    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 7
    assert recorder.insert_events(events("a", 1)) == [1]


def test_events_can_be_neither_deleted_nor_purged_and_snapshots_can_be_purged(workshop):
    factory = workshop.factory()
    history, snapshots = factory.application_recorder(), factory.aggregate_recorder("snapshots")
    history.insert_events(events("a", 1))
    snapshots.insert_events(events("a", 4))

    assert "error" in ask(history, "STREAM.PURGE", {})
    assert "error" in ask(history, "STREAM.MSG.DELETE", {"seq": 1})
    assert ask(snapshots, "STREAM.PURGE", {})["success"]
    assert stored(history, "a") == [1]
    snapshots.insert_events(events("a", 8))
    assert stored(snapshots, "a") == [8]


def test_a_stream_that_could_forget_is_refused(workshop):
    recorder = workshop.factory().application_recorder()
    config = ask(recorder, "STREAM.INFO", {})["config"]
    assert "error" not in ask(recorder, "STREAM.UPDATE", config | {"max_age": 300_000_000_000})

    with pytest.raises(ProgrammingError, match="has max_age = 300000000000, wanted 0: restore the setting"):
        workshop.factory().process_recorder()


def test_a_missing_stream_is_not_created_when_the_environment_forbids_it(workshop):
    with pytest.raises(ProgrammingError, match=r"stream ES-.*_events_App of application 'App' cannot be used"):
        workshop.factory(CREATE_TABLE="no").application_recorder()

    workshop.factory().application_recorder()
    assert workshop.factory(CREATE_TABLE="no").application_recorder().max_notification_id() is None


def test_a_store_of_positions_keeps_the_last_of_each(workshop):
    recorder = workshop.factory().tracking_recorder()
    for number in range(1, 11):
        recorder.insert_tracking(Tracking("up", number))

    assert ask(recorder, "STREAM.INFO", {})["state"]["messages"] == 1
    assert workshop.factory().tracking_recorder().max_tracking_id("up") == 10


@pytest.mark.parametrize("kind", ["APPLICATION", "TRACKING", "PROCESS"])
def test_a_recorder_class_may_be_given_by_its_topic(workshop, kind):
    topic = f"adapters.eventsourcing_recorders:JetStream{kind.title()}Recorder"
    factory = workshop.factory(**{f"{kind}_RECORDER_TOPIC": topic})

    assert type(getattr(factory, f"{kind.lower()}_recorder")()).__name__ == topic.rpartition(":")[2]
    factory.env[f"{kind}_RECORDER_TOPIC"] = "eventsourcing.popo:POPOFactory"
    with pytest.raises(TypeError, match="wanted a subclass of JetStream"):
        getattr(factory, f"{kind.lower()}_recorder")()


def test_names_of_applications_and_purposes_never_meet(workshop):
    names = [("a", "events"), ("events_a", "x"), ("a", "x_events"), ("x_a", "events"), (str(uuid.UUID(int=0)), "x.y")]

    streams = {workshop.factory(app).aggregate_recorder(purpose)._store.names.stream for app, purpose in names}

    assert len(streams) == len(names)
