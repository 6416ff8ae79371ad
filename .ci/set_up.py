"""Create .venv with everything the project needs; return at once when nothing has changed.

reads: pyproject.toml, conf/constraints.txt, conf/jars.xml, conf/jars.sha256; in a bundle (.ci/bundle.py), also
packages, bundle_jars   writes: .venv

This file must parse on Python 3.6, because `make` runs it with whatever `python3` exists, and an old Python gets an
error message of one sentence. After the first check in `main` the code may use Python 3.11.
"""

import os
import shutil
import subprocess
import sys

MIN_PYTHON = (3, 11)
NEWER_PYTHONS = ("python3.13", "python3.12", "python3.11")
MIN_JAVA = 17
INPUTS = ("pyproject.toml", "conf/constraints.txt", "conf/jars.xml", "conf/jars.sha256")
STAMP = ".set_up"
# Folders of a bundle: with them, nothing is downloaded, and the packages for tests are not installed.
PACKAGES, JARS = "packages", "bundle_jars"

NETWORK_ERRORS = (
    "NewConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "Max retries", "SSLError", "ProxyError",
)  # fmt: skip
MISSING_PACKAGE_ERRORS = ("No matching distribution", "Could not find a version")


class SetUpFailed(Exception):
    """One sentence for the terminal: what is missing, and what to do."""


# --- Python


def is_too_old(version: "tuple[int, ...]") -> bool:
    return tuple(version[:2]) < MIN_PYTHON


def newer_python(version: "tuple[int, ...]", path: str) -> str:
    """A Python on `path` that is new enough and starts; SetUpFailed when there is none."""
    for name in NEWER_PYTHONS:
        python = shutil.which(name, path=path)
        # A name on PATH may be a shim that does not start, so it is run once.
        if python and subprocess.call([python, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            return python
    raise SetUpFailed(
        "Python 3.11 or newer is needed, but python3 is {} and none of {} is on PATH: install one "
        "(Debian: apt-get install python3.11 python3.11-venv), or name it: make PYTHON=/path/to/python3.11 ...".format(
            ".".join(map(str, version[:3])), ", ".join(NEWER_PYTHONS)
        )
    )


# --- Java


def java_version(text: str) -> "int | None":
    """The feature release in the output of `java -version` (8 for "1.8.0_392"); null when there is none."""
    import re

    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else None


def java_path(env: "dict[str, str]") -> str:
    """The java that Spark will start: that of JAVA_HOME if it is set, else the first on PATH."""
    home = env.get("JAVA_HOME")
    java = shutil.which(os.path.join(home, "bin", "java") if home else "java", path=env.get("PATH", ""))
    if java:
        return os.path.realpath(java)
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
    action = "install one (Debian: apt-get install openjdk-17-jre-headless) and set JAVA_HOME to it"
    if run.returncode or version is None:
        raise SetUpFailed(f"Java 17 or newer is needed, but {java} does not start: {action}")
    if version < MIN_JAVA:
        raise SetUpFailed(f"Java 17 or newer is needed, but {java} is Java {version}: {action}")


# --- the environment


def error_line(text: str) -> str:
    """The line of a tool's output that names the error: the last one with "ERROR:", else the last one with words."""
    lines = [line.strip(" \t|╰─>×") for line in text.splitlines()]
    errors = [line for line in lines if line.startswith("ERROR:") and len(line) > len("ERROR:")]
    words = [line for line in lines if line and not line.startswith(("note:", "hint:", "[notice]", "[end of"))]
    return (errors or words or ["no output"])[-1]


def run_command(command: "list[str]", cwd: "str | None" = None) -> "tuple[int, str]":
    """Exit code and output of a command."""
    run = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    return run.returncode, run.stdout


def create_venv(python: str, venv: str) -> None:
    code, output = run_command([python, "-m", "venv", "--clear", venv])
    if code and ("ensurepip" in output or "No module named venv" in output):
        raise SetUpFailed(
            f"{python} cannot create a virtual environment, because its venv module is not installed: install it "
            "(Debian: apt-get install python3-venv) and run make again"
        )
    if code:
        raise SetUpFailed(f"{python} could not create {venv}: {error_line(output)}")


def install_packages(root: str, venv: str) -> None:
    pip = [os.path.join(venv, "bin", "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    is_bundle = os.path.isdir(os.path.join(root, PACKAGES))
    project = ["--no-index", "--find-links", PACKAGES, "-e", "."] if is_bundle else ["-e", ".[dev]"]
    code, output = run_command([*pip, "-c", "conf/constraints.txt", *project], cwd=root)
    if not code:
        return
    if is_bundle:
        raise SetUpFailed(
            f"The packages of this bundle cannot be installed (pip: {error_line(output)}): build the bundle with the "
            "same minor version of Python, on the same kind of machine"
        )
    action = "set PIP_INDEX_URL (or index-url in pip.conf) to a mirror you can reach and run make again"
    if any(error in output for error in NETWORK_ERRORS):
        problem = "The Python package mirror could not be reached"
    elif any(error in output for error in MISSING_PACKAGE_ERRORS):
        problem = "A Python package was not found on the package mirror"
    else:
        problem, action = "pip could not install the packages", "fix this and run make again"
    raise SetUpFailed(f"{problem} (pip: {error_line(output)}): {action}")


# --- the jars


def checksums(text: str) -> "dict[str, str]":
    """Lines of `sha256sum` as file name -> checksum."""
    pairs = [line.split() for line in text.splitlines() if line.strip()]
    return {name: digest for digest, name in pairs}


def check_jars(jars: str, expected: "dict[str, str]", checksum_file: str) -> None:
    """Raise SetUpFailed unless the folder contains exactly the expected files."""
    import hashlib

    action = "run make again; if the error remains, the mirror serves another file than the tested one"
    for name in sorted(set(expected) | set(os.listdir(jars))):
        path = os.path.join(jars, name)
        if name not in expected:
            raise SetUpFailed(f"{path} is not listed in {checksum_file}: add its checksum, or remove it from the list")
        if not os.path.exists(path):
            raise SetUpFailed(f"{path} was not downloaded, although {checksum_file} lists it: {action}")
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        if digest != expected[name]:
            raise SetUpFailed(
                f"{path} has the checksum {digest[:12]}..., "
                f"but {checksum_file} contains {expected[name][:12]}...: {action}"
            )


def download_jars(root: str, jars: str, java: str, env: "dict[str, str]", name: str = "jars") -> None:
    """Download with Spark's own Ivy: no build tool is needed, and no host is named here.

    conf/<name>.xml lists the jars, and conf/<name>.sha256 their checksums.
    """
    import glob

    settings = env.get("PROFILESTREAM_IVY_SETTINGS")
    if settings and not os.path.isfile(settings):
        raise SetUpFailed(
            f"PROFILESTREAM_IVY_SETTINGS is {settings}, which is not a file: set it to your Ivy settings, or unset it"
        )
    pyspark_jars = os.path.join(root, ".venv", "lib", "python3*", "site-packages", "pyspark", "jars")
    ivy, cache = glob.glob(os.path.join(pyspark_jars, "ivy-*.jar")), jars + ".ivy"
    pattern = os.path.join(jars, "[artifact]-[revision].[ext]")
    command = [java, "-jar", *ivy, "-ivy", os.path.join(root, "conf", name + ".xml"), "-cache", cache]
    command += ["-settings", settings] if settings else []
    # Some projects publish their jars with the type "bundle".
    code, output = run_command([*command, "-retrieve", pattern, "-types", "jar", "bundle"])
    if code:
        errors = [line for line in output.splitlines() if "error" in line.lower() and "://" in line]
        raise SetUpFailed(
            "The jars could not be downloaded from the Maven repository (Ivy: {}): set "
            "PROFILESTREAM_IVY_SETTINGS to an Ivy settings file that names a mirror you can reach and run make "
            "again".format(error_line("\n".join(errors[:1]) or output))
        )
    shutil.rmtree(cache, ignore_errors=True)
    check_listed_jars(root, jars, name)


def copy_jars(root: str, venv: str) -> None:
    """Copy the jars of a bundle."""
    jars = os.path.join(venv, "jars")
    shutil.copytree(os.path.join(root, JARS), jars)
    check_listed_jars(root, jars, "jars")


def check_listed_jars(root: str, jars: str, name: str) -> None:
    """Raise SetUpFailed unless the folder contains exactly the files of conf/<name>.sha256."""
    checksum_file = os.path.join("conf", name + ".sha256")
    with open(os.path.join(root, checksum_file), encoding="utf-8") as file:
        check_jars(jars, checksums(file.read()), checksum_file)


# --- the stamp


def stamp(root: str, venv: str, java: str) -> str:
    """Text that changes when .venv must be created again. It includes the path, which scripts in .venv contain."""
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
            stored = file.read()
        # bin/python is a link, which is broken if the Python that it links to was removed.
        return stored == stamp(root, venv, java) and os.path.exists(os.path.join(venv, "bin", "python"))
    except OSError:
        return False


def set_up(root: str, env: "dict[str, str]", python: str) -> None:
    """Create a complete .venv; on SetUpFailed it has no stamp, so the next run creates it again."""
    venv = os.path.join(root, ".venv")
    java = java_path(env)
    if is_ready(root, venv, java):
        return
    check_java(java)
    import fcntl

    # If two make processes run at once, the second waits and then has nothing to do. A killed process leaves no lock.
    with open(os.path.join(root, "pyproject.toml"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_ready(root, venv, java):
            create_environment(root, venv, python, java, env)


def create_environment(root: str, venv: str, python: str, java: str, env: "dict[str, str]") -> None:
    if os.path.islink(venv):
        raise SetUpFailed(
            f"{venv} is a link to {os.path.realpath(venv)}, which would be emptied: remove the link and run make again"
        )
    exists = os.path.exists(venv)
    if os.path.exists(os.path.join(venv, STAMP)):
        os.remove(os.path.join(venv, STAMP))
    reason = " again: it was incomplete, or the packages that it needs have changed" if exists else ""
    print(f"set-up: creating .venv{reason}", flush=True)
    create_venv(python, venv)
    print("set-up: installing the Python packages (1.6 GB on disk, 1 to 5 minutes)", flush=True)
    install_packages(root, venv)
    if os.path.isdir(os.path.join(root, JARS)):
        copy_jars(root, venv)
    else:
        print("set-up: downloading the jars of Delta and Kafka (22 MB)", flush=True)
        download_jars(root, os.path.join(venv, "jars"), java, env)
    text = stamp(root, venv, java)
    with open(os.path.join(venv, STAMP + ".part"), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(os.path.join(venv, STAMP + ".part"), os.path.join(venv, STAMP))
    print("set-up: done", flush=True)


def main(version: "tuple[int, ...]", env: "dict[str, str]") -> int:
    try:
        if is_too_old(version):
            python = newer_python(version, env.get("PATH", ""))
            os.execv(python, [python, os.path.abspath(__file__)])
        set_up(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), env, sys.executable)
    except SetUpFailed as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("set-up: stopped; run make again to start over", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(tuple(sys.version_info[:3]), dict(os.environ)))
