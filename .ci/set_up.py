"""Makes .venv with everything the project needs; returns at once when nothing has changed.

reads: pyproject.toml, conf/constraints.txt, conf/jars.xml, conf/jars.sha256   writes: .venv

This file must parse on Python 3.6, so that an old Python is told so in one sentence: `make` runs it with whatever
`python3` there is. Everything below `main`'s first check may rely on Python 3.11.
"""

import os
import shutil
import subprocess
import sys

OLDEST_PYTHON = (3, 11)
NEWER_PYTHONS = ("python3.13", "python3.12", "python3.11")
OLDEST_JAVA = 17
INPUTS = ("pyproject.toml", "conf/constraints.txt", "conf/jars.xml", "conf/jars.sha256")
STAMP = ".set_up"

UNREACHABLE = ("NewConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "Max retries", "SSLError", "ProxyError")
NOT_FOUND = ("No matching distribution", "Could not find a version")


class SetUpFailed(Exception):
    """What is missing and how to mend it, in one sentence for the reader's terminal."""


# --- Python


def too_old(version: "tuple[int, ...]") -> bool:
    return tuple(version[:2]) < OLDEST_PYTHON


def newer_python(version: "tuple[int, ...]", path: str) -> str:
    """A Python on `path` that is new enough and starts; SetUpFailed when there is none."""
    for name in NEWER_PYTHONS:
        found = shutil.which(name, path=path)
        # A name on PATH may be a shim that does not start: only a run tells.
        if found and subprocess.call([found, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            return found
    raise SetUpFailed(
        "Python 3.11 or newer is needed, but python3 is {} and none of {} is on PATH: install one "
        "(Debian: apt-get install python3.11 python3.11-venv), or name it: make PYTHON=/path/to/python3.11 ...".format(
            ".".join(map(str, version[:3])), ", ".join(NEWER_PYTHONS)
        )
    )


# --- Java


def java_version(text: str) -> "int | None":
    """The feature number in what `java -version` prints (8 for "1.8.0_392"); None when there is none."""
    import re

    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def java_path(env: "dict[str, str]") -> str:
    """The java that Spark will start: JAVA_HOME's when that is set, else the first on PATH."""
    home = env.get("JAVA_HOME")
    found = shutil.which(os.path.join(home, "bin", "java") if home else "java", path=env.get("PATH", ""))
    if found:
        return os.path.realpath(found)
    if home:
        raise SetUpFailed(
            f"JAVA_HOME is {home}, but there is no bin/java in it: unset JAVA_HOME, or set it to a Java 17 or newer"
        )
    raise SetUpFailed(
        "Java 17 or newer is needed, but there is no java on PATH and JAVA_HOME is not set: install one "
        "(Debian: apt-get install openjdk-17-jre-headless)"
    )


def check_java(java: str) -> None:
    run = subprocess.run([java, "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    version = java_version(run.stdout)
    mend = "install one (Debian: apt-get install openjdk-17-jre-headless) and set JAVA_HOME to it"
    if run.returncode or version is None:
        raise SetUpFailed(f"Java 17 or newer is needed, but {java} does not start: {mend}")
    if version < OLDEST_JAVA:
        raise SetUpFailed(f"Java 17 or newer is needed, but {java} is Java {version}: {mend}")


# --- the environment


def last_useful_line(text: str) -> str:
    """The line of a tool's output that names the fault: the last with "ERROR:", else the last with words."""
    lines = [line.strip(" \t|╰─>×") for line in text.splitlines()]
    errors = [line for line in lines if line.startswith("ERROR:") and len(line) > len("ERROR:")]
    words = [line for line in lines if line and not line.startswith(("note:", "hint:", "[notice]", "[end of"))]
    return (errors or words or ["it said nothing"])[-1]


def captured(command: "list[str]", cwd: "str | None" = None) -> "tuple[int, str]":
    run = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    return run.returncode, run.stdout


def make_venv(python: str, venv: str) -> None:
    code, said = captured([python, "-m", "venv", "--clear", venv])
    if code and ("ensurepip" in said or "No module named venv" in said):
        raise SetUpFailed(
            f"{python} cannot make a virtual environment, because its venv module is not installed: install it "
            "(Debian: apt-get install python3-venv) and run make again"
        )
    if code:
        raise SetUpFailed(f"{python} could not make {venv}: {last_useful_line(said)}")


def install_packages(root: str, venv: str) -> None:
    pip = [os.path.join(venv, "bin", "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    code, said = captured([*pip, "-c", "conf/constraints.txt", "-e", ".[dev]"], cwd=root)
    if not code:
        return
    mend = "set PIP_INDEX_URL (or index-url in pip.conf) to a mirror you can reach and run make again"
    if any(sign in said for sign in UNREACHABLE):
        what = "The Python package mirror could not be reached"
    elif any(sign in said for sign in NOT_FOUND):
        what = "A Python package was not found on the package mirror"
    else:
        what, mend = "pip could not install the packages", "mend that and run make again"
    raise SetUpFailed(f"{what} (pip: {last_useful_line(said)}): {mend}")


# --- the jars


def sums(text: str) -> "dict[str, str]":
    """Lines of `sha256sum` as file name -> sum."""
    pairs = [line.split() for line in text.splitlines() if line.strip()]
    return {name: digest for digest, name in pairs}


def check_jars(jars: str, wanted: "dict[str, str]") -> None:
    import hashlib

    mend = "run make again; if it stays so, the mirror serves another file than the one this project was tested with"
    for name in sorted(set(wanted) | set(os.listdir(jars))):
        path = os.path.join(jars, name)
        if name not in wanted:
            raise SetUpFailed(
                f"{path} is not listed in conf/jars.sha256: add its check sum, or take it out of jars.xml"
            )
        if not os.path.exists(path):
            raise SetUpFailed(f"{path} was not fetched, though conf/jars.sha256 lists it: {mend}")
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        if digest != wanted[name]:
            raise SetUpFailed(
                f"{path} has the check sum {digest[:12]}..., but conf/jars.sha256 says {wanted[name][:12]}...: {mend}"
            )


def fetch_jars(root: str, venv: str, java: str, env: "dict[str, str]") -> None:
    """Fetches with Spark's own Ivy, so that no build tool is needed and no host is named here."""
    import glob

    settings = env.get("PROFILESTREAM_IVY_SETTINGS")
    if settings and not os.path.isfile(settings):
        raise SetUpFailed(
            f"PROFILESTREAM_IVY_SETTINGS is {settings}, which is not a file: set it to your Ivy settings, or unset it"
        )
    ivy = glob.glob(os.path.join(venv, "lib", "python3*", "site-packages", "pyspark", "jars", "ivy-*.jar"))
    jars, cache = os.path.join(venv, "jars"), os.path.join(venv, "ivy")
    pattern = os.path.join(jars, "[artifact]-[revision].[ext]")
    command = [java, "-jar", *ivy, "-ivy", os.path.join(root, "conf", "jars.xml"), "-cache", cache]
    command += ["-settings", settings] if settings else []
    code, said = captured([*command, "-retrieve", pattern, "-types", "jar"])
    if code:
        errors = [line for line in said.splitlines() if "error" in line.lower() and "://" in line]
        raise SetUpFailed(
            "The Delta jars could not be fetched from the Maven repository (Ivy: {}): set PROFILESTREAM_IVY_SETTINGS "
            "to an Ivy settings file that names a mirror you can reach and run make again".format(
                last_useful_line("\n".join(errors[:1]) or said)
            )
        )
    shutil.rmtree(cache, ignore_errors=True)
    with open(os.path.join(root, "conf", "jars.sha256"), encoding="utf-8") as file:
        check_jars(jars, sums(file.read()))


# --- the stamp


def stamp(root: str, venv: str, java: str) -> str:
    """One line that changes when the environment must be made again. The folder counts: scripts in it name it."""
    import hashlib

    digest = hashlib.sha256()
    for name in INPUTS:
        with open(os.path.join(root, name), "rb") as file:
            digest.update(file.read())
    with open(os.path.join(venv, "pyvenv.cfg"), encoding="utf-8") as cfg:
        python = [line for line in cfg if line.startswith("version")]
    return "\n".join([digest.hexdigest(), os.path.realpath(venv), java, *python])


def is_ready(root: str, venv: str, java: str) -> bool:
    try:
        with open(os.path.join(venv, STAMP), encoding="utf-8") as file:
            written = file.read()
        # bin/python is a link: it dangles when the Python below it has been removed.
        return written == stamp(root, venv, java) and os.path.exists(os.path.join(venv, "bin", "python"))
    except OSError:
        return False


def set_up(root: str, env: "dict[str, str]", python: str) -> None:
    """Leaves a whole .venv, or raises SetUpFailed and leaves one without a stamp, to be made again."""
    venv = os.path.join(root, ".venv")
    java = java_path(env)
    if is_ready(root, venv, java):
        return
    check_java(java)
    import fcntl

    # Two makes in two terminals: the second waits, then finds the work done. A killed one leaves no lock behind.
    with open(os.path.join(root, "pyproject.toml"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_ready(root, venv, java):
            make(root, venv, python, java, env)


def make(root: str, venv: str, python: str, java: str, env: "dict[str, str]") -> None:
    if os.path.islink(venv):
        raise SetUpFailed(
            f"{venv} is a link to {os.path.realpath(venv)}, which would be emptied: remove the link and run make again"
        )
    again = " again: it was not whole, or the packages it must hold have changed" if os.path.exists(venv) else ""
    if os.path.exists(os.path.join(venv, STAMP)):
        os.remove(os.path.join(venv, STAMP))
    print(f"set-up: making .venv{again}", flush=True)
    make_venv(python, venv)
    print("set-up: installing the Python packages into it (1.6 GB on disk, 1 to 5 minutes)", flush=True)
    install_packages(root, venv)
    print("set-up: fetching the Delta jars (12 MB)", flush=True)
    fetch_jars(root, venv, java, env)
    whole = stamp(root, venv, java)
    with open(os.path.join(venv, STAMP + ".part"), "w", encoding="utf-8") as file:
        file.write(whole)
    os.replace(os.path.join(venv, STAMP + ".part"), os.path.join(venv, STAMP))
    print("set-up: done", flush=True)


def main(version: "tuple[int, ...]", env: "dict[str, str]") -> int:
    try:
        if too_old(version):
            python = newer_python(version, env.get("PATH", ""))
            os.execv(python, [python, os.path.abspath(__file__)])
        set_up(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), env, sys.executable)
    except SetUpFailed as failed:
        print(f"set-up: {failed}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("set-up: stopped; run make again and it starts over", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(tuple(sys.version_info[:3]), dict(os.environ)))
