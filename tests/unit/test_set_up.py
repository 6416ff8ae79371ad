"""The set-up of `make`, and its messages when something is missing. python, java and pip are fake scripts."""

import ast
import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "set_up.py"

# `-m venv --clear X` creates X with a copy of this script as its python; `-m pip` then runs `pip_script`.
FAKE_PYTHON = """#!/bin/sh
case "$2" in
  venv) [ "$3" = "--clear" ] && rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"
    echo "version = 3.11.7" > "$4/pyvenv.cfg";;
  pip) {pip_script};;
esac
"""

# `-version` prints a version; the Ivy call (-jar) creates one jar in the folder of the pattern.
FAKE_JAVA = """#!/bin/sh
if [ "$1" = "-version" ]; then echo 'openjdk version "{version}" 2025-04-15' >&2; exit 0; fi
{ivy_script}
"""
IVY_DOWNLOADS = """for word in "$@"; do case "$word" in
  *"[artifact]"*) mkdir -p "${word%/*}"; printf 'the jar' > "${word%/*}/delta-1.0.jar";;
esac; done"""
PIP_INSTALLS = 'touch "${0%/bin/python}/installed"'


@pytest.fixture(scope="module")
def set_up() -> ModuleType:
    spec = importlib.util.spec_from_file_location("set_up", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class Machine:
    """A checkout and a PATH with a fake python and java."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.venv = self.root / ".venv"
        (self.root / "conf").mkdir(parents=True)
        for name in ("pyproject.toml", "conf/constraints.txt", "conf/jars.xml"):
            (self.root / name).write_text(name)
        digest = hashlib.sha256(b"the jar").hexdigest()
        (self.root / "conf/jars.sha256").write_text(f"{digest}  delta-1.0.jar\n")
        self.bin = folder / "bin"
        self.env = {"PATH": str(self.bin)}
        self.java()
        self.python()

    def java(self, version: str = "17.0.15", ivy_script: str = IVY_DOWNLOADS) -> Path:
        return script(self.bin / "java", FAKE_JAVA.format(version=version, ivy_script=ivy_script))

    def python(self, pip_script: str = PIP_INSTALLS) -> str:
        return str(script(self.bin / "python3", FAKE_PYTHON.format(pip_script=pip_script)))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def run(set_up: ModuleType, machine: Machine) -> None:
    set_up.set_up(str(machine.root), machine.env, str(machine.bin / "python3"))


def failure(set_up: ModuleType, machine: Machine) -> str:
    with pytest.raises(set_up.SetUpFailed) as failed:
        run(set_up, machine)
    assert not (machine.venv / set_up.STAMP).exists()
    assert "\n" not in str(failed.value)
    return str(failed.value)


# --- Java


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "25" 2025-09-16', 25),
        ('openjdk version "21-ea" 2023-09-19', 21),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "21.0.2" 2024-01-16', 21),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", None),
    ],
)
def test_the_java_version_is_read_from_every_output_format(set_up: ModuleType, line: str, version: int | None) -> None:
    assert set_up.java_version(line) == version


def test_a_missing_java_is_reported_with_what_to_do(set_up: ModuleType, machine: Machine) -> None:
    (machine.bin / "java").unlink()
    assert failure(set_up, machine) == (
        "Java 17 or newer is needed, but there is no java on PATH and JAVA_HOME is not set: install one "
        "(Debian: apt-get install openjdk-17-jre-headless)"
    )
    assert not machine.venv.exists()


@pytest.mark.parametrize(("printed", "version"), [("1.8.0_392", 8), ("11.0.2", 11)])
def test_an_old_java_is_reported_with_its_version(
    set_up: ModuleType, machine: Machine, printed: str, version: int
) -> None:
    java = machine.java(printed)
    assert failure(set_up, machine) == (
        f"Java 17 or newer is needed, but {java} is Java {version}: "
        "install one (Debian: apt-get install openjdk-17-jre-headless) and set JAVA_HOME to it"
    )


def test_a_java_that_does_not_start_is_reported(set_up: ModuleType, machine: Machine) -> None:
    java = script(machine.bin / "java", "#!/bin/sh\necho 'no Java runtime present' >&2\nexit 1\n")
    assert failure(set_up, machine).startswith(f"Java 17 or newer is needed, but {java} does not start: install one")


def test_java_home_overrides_path_as_in_spark(set_up: ModuleType, machine: Machine, tmp_path: Path) -> None:
    machine.java("1.8.0_392")
    newer = script(tmp_path / "jdk/bin/java", FAKE_JAVA.format(version="21.0.1", ivy_script=""))
    assert set_up.java_path({**machine.env, "JAVA_HOME": str(tmp_path / "jdk")}) == str(newer)


def test_a_java_home_without_java_is_an_error_even_with_java_on_path(set_up: ModuleType, machine: Machine) -> None:
    machine.env["JAVA_HOME"] = "/nowhere"
    assert failure(set_up, machine) == (
        "JAVA_HOME is /nowhere, but there is no bin/java in it: unset JAVA_HOME, or set it to a Java 17 or newer"
    )


# --- Python


def test_the_script_parses_on_python_3_6() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_an_old_python_without_a_newer_one_prints_one_sentence_and_returns_2(
    set_up: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set_up.main((3, 8, 10), machine.env) == 2
    assert capsys.readouterr().err == (
        "set-up: Python 3.11 or newer is needed, but python3 is 3.8.10 and none of python3.13, python3.12, python3.11 "
        "is on PATH: install one (Debian: apt-get install python3.11 python3.11-venv), "
        "or name it: make PYTHON=/path/to/python3.11 ...\n"
    )


def test_an_old_python_selects_the_first_newer_one_that_starts(set_up: ModuleType, machine: Machine) -> None:
    script(machine.bin / "python3.12", "#!/bin/sh\nexit 127\n")
    works = script(machine.bin / "python3.11", "#!/bin/sh\nexit 0\n")
    assert set_up.newer_python((3, 8, 10), machine.env["PATH"]) == str(works)


@pytest.mark.parametrize(("version", "old"), [((3, 6, 9), True), ((3, 10, 14), True), ((3, 11, 0), False)])
def test_python_3_11_is_the_minimum(set_up: ModuleType, version: tuple[int, ...], old: bool) -> None:
    assert set_up.is_too_old(version) is old


def test_a_python_without_venv_is_reported_with_the_package_to_install(set_up: ModuleType, machine: Machine) -> None:
    output = "The virtual environment was not created successfully because ensurepip is not available."
    python = script(machine.bin / "python3", f"#!/bin/sh\necho '{output}'\nexit 1\n")
    assert failure(set_up, machine) == (
        f"{python} cannot create a virtual environment, because its venv module is not installed: install it "
        "(Debian: apt-get install python3-venv) and run make again"
    )


# --- packages


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "WARNING: Retrying after connection broken by NewConnectionError\nERROR: No matching distribution found",
            "The Python package mirror could not be reached (pip: ERROR: No matching distribution found): "
            "set PIP_INDEX_URL (or index-url in pip.conf) to a mirror you can reach and run make again",
        ),
        (
            "  ERROR: No matching distribution found for pyspark==4.2.0\nSee above.\n\nnote: This is not pip.",
            "A Python package was not found on the package mirror "
            "(pip: ERROR: No matching distribution found for pyspark==4.2.0): "
            "set PIP_INDEX_URL (or index-url in pip.conf) to a mirror you can reach and run make again",
        ),
        (
            "ERROR: Could not install packages due to an OSError: No space left on device",
            "pip could not install the packages "
            "(pip: ERROR: Could not install packages due to an OSError: No space left on device): "
            "fix this and run make again",
        ),
    ],
)
def test_an_error_of_pip_is_reported_with_its_error_line_and_what_to_do(
    set_up: ModuleType, machine: Machine, output: str, message: str
) -> None:
    (machine.root / "pip_output").write_text(output)
    machine.python(pip_script="/bin/cat pip_output; exit 1")
    machine.env["PATH"] += ":/bin:/usr/bin"
    assert failure(set_up, machine) == message


# --- jars


def test_an_unreachable_maven_repository_is_reported_with_the_ivy_settings(
    set_up: ModuleType, machine: Machine
) -> None:
    line = "Server access error at url http://host/delta.jar (java.net.ConnectException: Connection refused)"
    machine.java(ivy_script=f"echo '{line}'; echo ':: USE VERBOSE OR DEBUG'; exit 1")
    assert failure(set_up, machine) == (
        f"The jars could not be downloaded from the Maven repository (Ivy: {line}): set "
        "PROFILESTREAM_IVY_SETTINGS to an Ivy settings file that names a mirror you can reach and run make again"
    )


def test_ivy_settings_that_are_not_a_file_are_an_error(set_up: ModuleType, machine: Machine) -> None:
    machine.env["PROFILESTREAM_IVY_SETTINGS"] = "/nowhere/ivy.xml"
    assert failure(set_up, machine) == (
        "PROFILESTREAM_IVY_SETTINGS is /nowhere/ivy.xml, which is not a file: set it to your Ivy settings, or unset it"
    )


def test_ivy_uses_the_settings_of_the_environment(set_up: ModuleType, machine: Machine) -> None:
    settings = machine.root / "ivy.xml"
    settings.write_text("<ivysettings/>")
    machine.env["PROFILESTREAM_IVY_SETTINGS"] = str(settings)
    machine.java(ivy_script='echo "ERROR: $*"; exit 1')
    assert f"-settings {settings} -retrieve" in failure(set_up, machine)


def test_a_jar_with_a_wrong_checksum_stops_the_set_up(set_up: ModuleType, machine: Machine) -> None:
    machine.java(ivy_script=IVY_DOWNLOADS.replace("the jar", "another jar"))
    assert failure(set_up, machine).startswith(
        f"{machine.venv}/jars/delta-1.0.jar has the checksum {hashlib.sha256(b'another jar').hexdigest()[:12]}..., "
        f"but conf/jars.sha256 contains {hashlib.sha256(b'the jar').hexdigest()[:12]}...: run make again"
    )


def test_a_downloaded_jar_that_is_not_listed_is_an_error(set_up: ModuleType, machine: Machine) -> None:
    (machine.root / "conf/jars.sha256").write_text("")
    assert failure(set_up, machine) == (
        f"{machine.venv}/jars/delta-1.0.jar is not listed in conf/jars.sha256: "
        "add its checksum, or remove it from the list"
    )


def test_a_listed_jar_that_was_not_downloaded_is_an_error(set_up: ModuleType, machine: Machine) -> None:
    with (machine.root / "conf/jars.sha256").open("a") as file:
        file.write("00  storage-1.0.jar\n")
    assert "storage-1.0.jar was not downloaded, although conf/jars.sha256 lists it" in failure(set_up, machine)


# --- a bundle


@pytest.fixture
def bundle(machine: Machine) -> Machine:
    """The machine with an unpacked bundle: folders of packages and jars, and an Ivy that downloads nothing."""
    (machine.root / "packages").mkdir()
    (machine.root / "bundle_jars").mkdir()
    (machine.root / "bundle_jars" / "delta-1.0.jar").write_text("the jar")
    machine.java(ivy_script="exit 1")
    return machine


def test_a_bundle_is_installed_from_its_folders_without_the_packages_for_tests(
    set_up: ModuleType, bundle: Machine
) -> None:
    bundle.python(pip_script='echo "$*" > pip_arguments')
    run(set_up, bundle)
    arguments = (bundle.root / "pip_arguments").read_text()
    assert arguments.endswith("-c conf/constraints.txt --no-index --find-links packages -e .\n")
    assert (bundle.venv / "jars" / "delta-1.0.jar").read_text() == "the jar"


def test_a_bundle_for_another_python_is_reported_with_what_to_do(set_up: ModuleType, bundle: Machine) -> None:
    bundle.python(pip_script="echo 'ERROR: No matching distribution found for numpy'; exit 1")
    assert failure(set_up, bundle) == (
        "The packages of this bundle cannot be installed (pip: ERROR: No matching distribution found for numpy): "
        "build the bundle with the same minor version of Python, on the same kind of machine"
    )


def test_a_changed_jar_of_a_bundle_stops_the_set_up(set_up: ModuleType, bundle: Machine) -> None:
    (bundle.root / "bundle_jars" / "delta-1.0.jar").write_text("another jar")
    assert "delta-1.0.jar has the checksum" in failure(set_up, bundle)


# --- the stamp


def test_a_second_run_does_nothing_and_prints_nothing(
    set_up: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    run(set_up, machine)
    assert (machine.venv / "installed").exists()
    assert capsys.readouterr().out.splitlines()[-1] == "set-up: done"
    machine.python(pip_script="exit 1")
    run(set_up, machine)
    assert capsys.readouterr().out == ""


def test_an_incomplete_environment_is_created_again(
    set_up: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.venv.mkdir()
    (machine.venv / "half_a_package").touch()
    run(set_up, machine)
    assert not (machine.venv / "half_a_package").exists()
    assert capsys.readouterr().out.startswith(
        "set-up: creating .venv again: it was incomplete, or the packages that it needs have changed\n"
    )


@pytest.mark.parametrize("name", ["pyproject.toml", "conf/constraints.txt", "conf/jars.xml", "conf/jars.sha256"])
def test_a_changed_input_creates_the_environment_again(set_up: ModuleType, machine: Machine, name: str) -> None:
    run(set_up, machine)
    (machine.venv / "installed").unlink()
    with (machine.root / name).open("a") as file:
        file.write("\n")
    run(set_up, machine)
    assert (machine.venv / "installed").exists()


def test_the_environment_of_a_moved_checkout_is_created_again(set_up: ModuleType, machine: Machine) -> None:
    run(set_up, machine)
    (machine.venv / "installed").unlink()
    machine.root = machine.root.rename(machine.root.with_name("moved"))
    run(set_up, machine)
    assert (machine.root / ".venv" / "installed").exists()


def test_the_environment_of_another_checkout_is_not_emptied_through_a_link(
    set_up: ModuleType, machine: Machine
) -> None:
    run(set_up, machine)
    other = machine.venv.rename(machine.root.with_name("other"))
    machine.venv.symlink_to(other)
    with pytest.raises(set_up.SetUpFailed, match=r"is a link to .*other, which would be emptied"):
        run(set_up, machine)
    assert (other / "bin" / "python").exists()


def test_an_environment_whose_python_was_removed_is_created_again(set_up: ModuleType, machine: Machine) -> None:
    run(set_up, machine)
    (machine.venv / "bin/python").unlink()
    run(set_up, machine)
    assert (machine.venv / "bin/python").exists()


def test_another_java_is_checked_before_it_is_used(set_up: ModuleType, machine: Machine, tmp_path: Path) -> None:
    run(set_up, machine)
    old = script(tmp_path / "jdk8/bin/java", FAKE_JAVA.format(version="1.8.0_392", ivy_script=""))
    machine.env["JAVA_HOME"] = str(old.parents[1])
    with pytest.raises(set_up.SetUpFailed, match="is Java 8: install one"):
        run(set_up, machine)


def test_main_prints_the_error_without_a_traceback(set_up: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert set_up.main(sys.version_info[:3], {"PATH": "/nowhere"}) == 2
    assert capsys.readouterr().err.startswith("set-up: Java 17 or newer is needed, but there is no java on PATH")
