"""What every test shares: where the reference data, ComfyUI and the pack are, and how to load them."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", REPOSITORY / ".host" / "ComfyUI")).resolve()
REFERENCE = Path(os.environ.get("CROSSINIT_REFERENCE", REPOSITORY.parent / "shared" / "reference")).resolve()
CACHE = REPOSITORY / ".host" / "test-models"
"""Stand-in models are made once and kept here; making them takes longer than using them."""

PACK = "crossinit_pack"

NO_COMFYUI = "there is no ComfyUI at {}; set COMFYUI_PATH, or use: python3 run.py test"

# Last, never first: the pack has a folder `nodes`, and so has ComfyUI a module of that name.
if str(REPOSITORY) not in sys.path:
    sys.path.append(str(REPOSITORY))


@pytest.fixture(scope="module", autouse=True)
def nothing_stays_loaded() -> Iterator[None]:
    """ComfyUI keeps models, and the C library memory: a dozen gigabytes of stand-ins by the end of a session."""
    yield
    host: Any = sys.modules.get("comfy.model_management")
    if host is not None:
        host.unload_all_models()
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)


@pytest.fixture(autouse=True)
def no_folder_is_remembered() -> Iterator[None]:
    """ComfyUI looks again at folders that it has listed, also at those of a test that are gone."""
    yield
    host: Any = sys.modules.get("folder_paths")
    if host is not None:
        getattr(host, "filename_list_cache", {}).clear()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of traces, tiny models and published embeddings."""
    if not REFERENCE.is_dir():
        pytest.skip(f"the reference data is not at {REFERENCE}; set CROSSINIT_REFERENCE")
    return REFERENCE


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """ComfyUI on sys.path, ahead of this repository, in CPU mode; returns its folder."""
    if not (COMFYUI / "comfy" / "sd.py").is_file():
        pytest.skip(NO_COMFYUI.format(COMFYUI))
    if str(COMFYUI) not in sys.path:
        sys.path.insert(0, str(COMFYUI))
    from comfy.cli_args import args

    args.cpu = True
    # As main.py does, and before `nodes`, which in older ComfyUIs puts its `comfy` folder, with another utils, first.
    importlib.import_module("utils.extra_config")
    return COMFYUI


@pytest.fixture(scope="session")
def pack(comfyui: Path) -> ModuleType:
    """The pack under a name of its own, as ComfyUI's loader imports it; `pack.nodes.learn` and so on work."""
    spec = importlib.util.spec_from_file_location(
        PACK, REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)
    # ComfyUI's server module, which the nodes import, wants an instance to send text to.
    import server

    if not hasattr(server.PromptServer, "instance"):
        server.PromptServer(asyncio.new_event_loop())
    importlib.import_module(f"{PACK}.nodes")
    return module


@pytest.fixture(scope="session")
def nodes(pack: ModuleType) -> dict[str, Any]:
    """The pack's node classes by id, as ComfyUI's loader gets them."""
    extension = asyncio.run(pack.comfy_entrypoint())
    classes = asyncio.run(extension.get_node_list())
    return {node.GET_SCHEMA().node_id: node for node in classes}


@pytest.fixture
def text_without_a_page(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes send text to the page; here there is none."""
    import server

    nobody = SimpleNamespace(send_sync=lambda *_: None)
    monkeypatch.setattr(server.PromptServer, "instance", nobody, raising=False)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The diffusers folders `tiny-eps`, `tiny-v` and, with SDXL's structure, `tiny-xl`, with random weights."""
    from tests.tiny_models import MODELS, make_tiny, make_tiny_xl

    folder = tmp_path_factory.mktemp("tiny")
    for name, prediction_type in MODELS.items():
        make_tiny(folder / name, prediction_type)
    make_tiny_xl(folder / "tiny-xl")
    return folder


@pytest.fixture(scope="session")
def backbone(tiny_models: Path) -> Any:
    """The tiny model that predicts noise, in memory once: a test that changes its weights restores them."""
    from crossinit_core.diffusers_backbone import DiffusersBackbone

    return DiffusersBackbone.from_pretrained(tiny_models / "tiny-eps")


@pytest.fixture(scope="session")
def v0(backbone: Any) -> torch.Tensor:
    """A start for the tiny model, (2, 32)."""
    from crossinit_core import cross_initialize_words

    return cross_initialize_words(backbone, "human face")


@pytest.fixture(scope="session")
def eps(backbone: Any) -> Any:
    """The tiny model that predicts noise, with a start and batches of its training."""
    from tests.tiny_models import prepare

    return prepare(backbone)


@pytest.fixture(scope="session")
def tiny_comfy(pack: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Any]:
    """Makes ComfyUI's MODEL, CLIP and VAE of a tiny diffusers folder: `tiny_comfy(tiny_models / "tiny-eps")`."""
    from tests.tiny_models import make_compact

    compact: dict[Path, Path] = {}

    def make(folder: Path) -> Any:
        if folder not in compact:
            compact[folder] = make_compact(folder, tmp_path_factory.mktemp("compact"))
        return pack.nodes.host.miniature.load_miniature(compact[folder])

    return make


@pytest.fixture(scope="session")
def tiny_clip(tiny_comfy: Callable[[Path], Any], tiny_models: Path) -> Any:
    """A tiny CLIP of ComfyUI, of width 32."""
    with torch.inference_mode():
        return tiny_comfy(tiny_models / "tiny-eps")[1]


@pytest.fixture(scope="session")
def world() -> Any:
    """The drawn world of the bundled names."""
    from miniature.training.population import load_world

    return load_world()


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same for every test."""
    return np.random.Generator(np.random.PCG64(2024))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny models several times slower on a busy machine.

    For the whole session: sums over several threads differ in their last bits from those of one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cached_model(name: str, make: Any) -> Path:
    """A stand-in model file that is made once: `make(path)` writes it."""
    path = CACHE / name
    if not path.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        make(path)
    return path


# Tiers of tests: a test that asks for a server is `live`, one that asks for a browser is `page`. `slow` is set by hand.


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sets the markers of the tiers, and puts live tests last: their server, which holds gigabytes, lives only as long as
    it is needed."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "start_server" in fixtures:
            item.add_marker(pytest.mark.live)
        if "browser" in fixtures:
            item.add_marker(pytest.mark.page)
            item.add_marker(pytest.mark.skipif(not _has_browser(), reason=NO_BROWSER))
        if REPOSITORY / "tests" / "gpu" in item.path.parents:
            item.add_marker(pytest.mark.gpu)
    items.sort(key=lambda item: item.get_closest_marker("live") is not None)


NO_BROWSER = "there is no Chromium, Chrome or Edge; install one, or set CROSSINIT_CHROMIUM"


@functools.cache
def _has_browser() -> bool:
    from devtools.setup.browser import find_browser

    return find_browser(os.environ) is not None


# A live ComfyUI.

StartServer = Callable[..., AbstractContextManager[Any]]
"""`with start_server(base) as server`, see there."""


@pytest.fixture(scope="session")
def start_server(server_arguments: tuple[str, ...]) -> StartServer:
    """Starts ComfyUI in a base directory, `with start_server(base) as server`, with its log in `base / "server.log"`.

    Optional: `comfyui`, the folder of another ComfyUI, and `arguments` in place of the usual ones. Every test on a running
    server gets it from here, which makes it a `live` test.
    """
    from devtools.comfyui.server import ComfyServer

    def start(base: Path, comfyui: Path = COMFYUI, arguments: Sequence[str] = server_arguments) -> Any:
        if not (comfyui / "main.py").is_file():
            pytest.skip(NO_COMFYUI.format(comfyui))
        # Threads that wait for each other make tiny models several times slower on a busy machine.
        one_thread = {"OMP_NUM_THREADS": "1"}
        return ComfyServer(comfyui, base, extra_args=arguments, log=base / "server.log", environment=one_thread)

    return start


@dataclass(frozen=True)
class Live:
    """A running server of our own with everything that the shipped workflows need."""

    url: str
    base: Path
    client: Any
    info: dict[str, Any]

    @property
    def embeddings(self) -> Path:
        return self.base / "models" / "embeddings"

    @property
    def output(self) -> Path:
        return self.base / "output"


@pytest.fixture(scope="session")
def server_arguments() -> tuple[str, ...]:
    """What ComfyUI is started with. CROSSINIT_PAGE is the folder of another page than the one that its Python has."""
    page = os.environ.get("CROSSINIT_PAGE")
    return ("--cpu", "--front-end-root", str(Path(page).resolve())) if page else ("--cpu",)


@pytest.fixture(scope="session")
def live(comfyui: Path, start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server on the CPU for the whole session, in a base directory of its own."""
    from devtools.comfyui.client import Client
    from devtools.standins.stage import set_stage

    base = tmp_path_factory.mktemp("comfyui")
    set_stage(base, cached_model)
    shutil.copyfile(Path(__file__).with_name("probe_nodes.py"), base / "custom_nodes" / "crossinit_probe.py")
    with start_server(base) as server, Client(server.url) as client:
        yield Live(server.url, base, client, client.object_info())


@pytest.fixture(scope="session")
def learned(live: Live) -> Any:
    """Workflow 01 after its run, which takes so long that all files of tests share it."""
    from tests.live_watch import learn_a_face

    return learn_a_face(live)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium. A test that asks for it is skipped if there is none: see above."""
    from devtools.page.driver import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def page_url(live: Live) -> str:
    """The server whose page `classic` and `newer` open; a file of tests with a server of its own names that one."""
    return live.url


@pytest.fixture(scope="module")
def classic(browser: Any, page_url: str) -> Iterator[Any]:
    """The page as a new local installation shows it."""
    from devtools.page.driver import ComfyPage

    page = ComfyPage.open(browser, page_url)
    yield page
    page.close()


@pytest.fixture(scope="module")
def newer(browser: Any, page_url: str) -> Iterator[Any]:
    """The page with its newer nodes, "Nodes 2.0", and with previews in KSampler too."""
    from devtools.page.driver import ComfyPage

    page = ComfyPage.open(
        browser, page_url, {"Comfy.VueNodes.Enabled": True, "Comfy.Execution.PreviewMethod": "latent2rgb"}
    )
    yield page
    page.close()
