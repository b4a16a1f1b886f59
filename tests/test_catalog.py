"""Names of datasets, and what is known of them before any work: refused names, and downloads that cannot be."""

import socket
import time
from threading import Event
from urllib.parse import urlsplit

import pytest
from torchvision import datasets

from ovit_core.data import archives, catalog, loading

TORCHVISION = dict(
    fashion_mnist=datasets.FashionMNIST.mirrors[0], cifar10=datasets.CIFAR10.url, cifar100=datasets.CIFAR100.url,
    oxford_pets=datasets.OxfordIIITPet._RESOURCES[0][0], flowers102=datasets.Flowers102._download_url_prefix,
    fgvc_aircraft=datasets.FGVCAircraft._URL, food101=datasets.Food101._URL,
)  # fmt: skip  # of Caltech-101 it stands inside a function


PATHS = [(n, path) for n, (_, paths) in catalog.DOWNLOADED.items() for path in paths if not path.startswith("/")]


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """A machine without a proxy, and without Debian's packages."""
    monkeypatch.setattr(catalog, "getproxies", dict)
    source, _ = catalog.DOWNLOADED["fashion_mnist"]
    paths = tuple(path for name, path in PATHS if name == "fashion_mnist")
    monkeypatch.setitem(catalog.DOWNLOADED, "fashion_mnist", (source, paths))


@pytest.fixture
def asked(monkeypatch):
    """The places that were connected to; all answer."""
    places = []
    fake = type("Connection", (), {"close": lambda self: None})
    monkeypatch.setattr(socket, "create_connection", lambda place, timeout: places.append(place) or fake())
    return places


@pytest.fixture
def offline(monkeypatch):
    def refuse(place, timeout):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("name", catalog.DOWNLOADED)
def test_a_download_that_cannot_be_is_known_at_once(tmp_path, offline, name):
    with pytest.raises(FileNotFoundError) as caught:
        catalog.check(name, tmp_path)
    source, place = urlsplit(catalog.DOWNLOADED[name][0]).hostname, catalog.find(name).place
    for part in (
        f"{name} is not in {tmp_path} and cannot be downloaded",
        f"{source} does not answer",
        f"Put there {place}.",
    ):
        assert part in str(caught.value)
    assert place and "\n" not in str(caught.value)


@pytest.mark.parametrize("name, path", PATHS)
def test_who_has_the_files_needs_no_network(tmp_path, offline, name, path):
    place = tmp_path / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if "." in place.name:
        place.write_bytes(b"an archive")
    else:
        place.mkdir()
        with pytest.raises(FileNotFoundError):  # a folder that a failed download left
            catalog.check(name, tmp_path)
        (place / "one").touch()
    catalog.check(name, tmp_path)


def test_debians_package_needs_no_network_either(tmp_path, offline, monkeypatch):
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian" / "train-images-idx3-ubyte.gz").touch()
    monkeypatch.setitem(catalog.DOWNLOADED, "fashion_mnist", ("http://nowhere", (str(tmp_path / "debian"),)))
    catalog.check("fashion_mnist", tmp_path / "data")


def test_embedded_sets_need_no_network(tmp_path, offline):
    for name in ("digits", "glyph_letters", "glyph_symbols", "glyph_typefaces"):
        catalog.check(name, tmp_path)


def test_a_source_that_answers_is_enough(tmp_path, asked):
    for name in ("cifar10", "food101"):
        catalog.check(name, tmp_path)
    assert asked == [("www.cs.toronto.edu", 443), ("data.vision.ee.ethz.ch", 80)]


def test_behind_a_proxy_it_is_the_proxy_that_answers(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(catalog, "getproxies", lambda: {"https": "http://proxy.example:3128"})
    catalog.check("cifar10", tmp_path)
    catalog.check("food101", tmp_path)
    monkeypatch.setattr(catalog, "proxy_bypass", lambda host: host.endswith(".edu"))
    catalog.check("cifar10", tmp_path)
    assert asked == [("proxy.example", 3128), ("data.vision.ee.ethz.ch", 80), ("www.cs.toronto.edu", 443)]


def test_a_network_that_says_nothing_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "TIMEOUT", 0.1)
    over = Event()

    def silent(place, timeout):
        over.wait(30)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match=r"www\.cs\.toronto\.edu does not answer within 0\.1 seconds"):
        catalog.check("cifar10", tmp_path)
    assert time.perf_counter() - start < 5
    over.set()


def test_sources_are_those_of_torchvision_and_paths_those_of_the_readers():
    for name, url in TORCHVISION.items():
        source, there = urlsplit(catalog.DOWNLOADED[name][0]), urlsplit(url)
        assert (source.scheme, source.netloc) == (there.scheme, there.netloc), name
    readers = {name: archive for name, archive in archives.ARCHIVES.items() if not catalog.find(name).required}
    assert catalog.DOWNLOADED.keys() == readers.keys() | {"fashion_mnist"}
    for name, archive in readers.items():
        for file in archive.files:
            assert any(file == path or file.startswith(f"{path}/") for path in catalog.DOWNLOADED[name][1]), file


@pytest.mark.parametrize(
    "name, why",
    [
        ("", "not a path"), ("a/b", "not a path"), ("/etc", "not a path"), ("../up", "not a path"), ("a\\b", "not a path"),
        ("a\0b", "not a path"), ("..", "which begins with no dot"), (".", "which begins with no dot"),
        (".git", "which begins with no dot"), ("x" * 201, "of at most 200 bytes"), ("é" * 101, "of at most 200 bytes"),
        ("\ud800", "which can be written in UTF-8"), ("caf\udce9", "which can be written in UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_name_of_a_folder_is_refused(tmp_path, name, why):
    for refused in (catalog.find, lambda name: loading.load(name, tmp_path)):
        with pytest.raises(ValueError, match=f"folder:NAME takes the name of a folder in data_dir, {why}") as caught:
            refused(f"folder:{name}")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["x" * 200, "two words", "caf\xe9"])
def test_other_names_are_names(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="needs the folders"):
        catalog.check(f"folder:{name}", tmp_path)


def test_links_that_lead_nowhere_are_one_line(tmp_path):
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    with pytest.raises(FileNotFoundError, match="ring is a link that leads nowhere"):
        catalog.check("folder:ring", tmp_path)
    with pytest.raises(FileNotFoundError, match="stanford_cars is not in"):
        catalog.check("stanford_cars", tmp_path / "ring")
    for part in ("train", "test"):
        for c in ("a", "b"):
            (tmp_path / "mine" / part / c).mkdir(parents=True)
    (tmp_path / "mine" / "train" / "c").symlink_to("c")
    with pytest.raises(ValueError, match=r"train/c is a link that leads nowhere: a class would be missing"):
        loading.load("folder:mine", tmp_path)
