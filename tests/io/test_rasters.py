"""Reading GeoTIFFs by windows: files on the grid pixel for pixel, files off it as rasterio warps them, and clear refusals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer
from rasterio.enums import Resampling
from rasterio.warp import reproject

from eocube.errors import AssetReadError
from eocube.io.geotiff import GeoTiffReader
from eocube.io.rasters import RasterioReader, aligned_origin, can_hold
from eocube.model.scene import Asset
from eocube.testing.contracts import ReaderContract
from eocube.testing.stac import CountingReader, SyntheticReader, SyntheticScene, make_grid, make_series, write_files
from eocube.testing.stores import counting_server

SCENE = SyntheticScene(
    item_id="SYN_WARP",
    when="2021-06-01",
    number=2,
    grid=make_grid((120, 150)),
    zooms={"B04": 1, "B08": 1},
    one_file=True,
    block=32,
)
GRIDS = {
    "finer, shifted": GeoBox((160, 200), Affine(7.0, 0, 600_003.3, 0, -7.0, 5_000_035.6), "EPSG:32635"),
    "coarser, nested": GeoBox((60, 75), Affine(20.0, 0, 600_000, 0, -20.0, 5_000_040), "EPSG:32635"),
    "coarser, shifted": GeoBox((36, 45), Affine(33.0, 0, 600_003.3, 0, -33.0, 5_000_035.6), "EPSG:32635"),
    "another projection, turned": GeoBox((100, 110), Affine(10.0, 0, 5_744_300, 0, -10.0, 2_624_000), "EPSG:3035"),
    "degrees": GeoBox((80, 130), Affine(1.3e-4, 0, 28.2725, 0, -1.3e-4, 45.1422), "EPSG:4326"),
    "degrees, coarse": GeoBox((20, 33), Affine(5e-4, 0, 28.2725, 0, -5e-4, 45.1422), "EPSG:4326"),
}


class TestRasterio(ReaderContract):
    def make_reader(self):
        return RasterioReader(backoff_s=0.0)

    def test_a_truncated_file_is_named(self, reader, folder: Path, tmp_path: Path) -> None:
        whole = self.asset(folder, "B04")
        cut = tmp_path / "cut.tif"
        body = Path(whole.href).read_bytes()
        cut.write_bytes(body[: len(body) // 2])
        with pytest.raises(AssetReadError, match=r"cut\.tif") as caught:
            self.read(reader, [self.asset(folder, "B04", href=str(cut))], self.scene.grid)
        assert caught.value.item_id == self.scene.item_id

    @pytest.mark.parametrize("nodata", [None, 0.0], ids=str)
    def test_a_file_that_marks_other_pixels_as_empty_is_refused(self, reader, folder: Path, nodata: float | None) -> None:
        with pytest.raises(AssetReadError, match=r"nodata tag is 7, its items (know of none|say 0)"):
            self.read(reader, [self.asset(folder, "B04", nodata=nodata)], self.scene.grid)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            pytest.param({"dtype": "int16"}, "its metadata says int16, the file holds uint16", id="dtype"),
            pytest.param({"bidx": 9}, "band 9 asked, the file has 3", id="band"),
            pytest.param({"geobox": make_grid((40, 57))}, r"metadata says grid \(40, 57\)", id="shape"),
            pytest.param({"geobox": make_grid((40, 56), corner_xy=(600_010.0, 5_000_040.0))}, "600010", id="corner"),
            pytest.param({"geobox": make_grid((40, 56), crs="EPSG:32634")}, "the file has EPSG:32635", id="crs"),
        ],
    )
    def test_a_file_that_is_not_what_its_metadata_says_is_refused(self, reader, folder: Path, changes: Any, says: str) -> None:
        with pytest.raises(AssetReadError, match=says):
            self.read(reader, [self.asset(folder, "B04", **changes)], self.scene.grid)


class TestSynthetic(ReaderContract):
    resamples = ("nearest",)

    def make_reader(self):
        return SyntheticReader([self.scene])


class TestCounting(TestSynthetic):
    def make_reader(self):
        return CountingReader(SyntheticReader([self.scene]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("warp")
    write_files(SCENE, top)
    return top


def assets(folder: Path, *eo_names: str) -> list[Asset]:
    found = []
    for name in eo_names:
        key, bidx = SCENE.asset_of(name)
        found.append(Asset(href=str(folder / SCENE.file_name(key)), key=key, bidx=bidx, dtype="uint16", nodata=0))
    return found


def read(folder: Path, box: GeoBox, resampling: str, *eo_names: str) -> np.ndarray:
    return RasterioReader().read(assets(folder, *(eo_names or ("B04",))), box, item_id="i", resampling=resampling)


def nearest(box: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """The pixel in which each pixel centre of ``box`` lies, 0 outside; and how far it is from the edge of that pixel, px."""
    columns, rows = np.meshgrid(np.arange(int(box.shape[1])) + 0.5, np.arange(int(box.shape[0])) + 0.5)
    a = box.affine
    x, y = Transformer.from_crs(str(box.crs), str(SCENE.grid.crs), always_xy=True).transform(
        a.c + a.a * columns, a.f + a.e * rows
    )
    b = SCENE.grid.affine
    px, py = (x - b.c) / b.a, (y - b.f) / b.e
    ix, iy = np.floor(px).astype(int), np.floor(py).astype(int)
    ny, nx = map(int, SCENE.grid.shape)
    inside = (ix >= 0) & (ix < nx) & (iy >= 0) & (iy < ny)
    found = np.where(inside, SCENE.file_pixels("B04")[iy.clip(0, ny - 1), ix.clip(0, nx - 1)], 0)
    return found, np.minimum(abs(px - np.rint(px)), abs(py - np.rint(py)))


def metres_yx(box: GeoBox) -> tuple[float, float]:
    """Size of the middle pixel on the ground."""
    a, (ny, nx) = box.affine, map(int, box.shape)
    x, y = a.c + a.a * nx / 2, a.f + a.e * ny / 2
    to_degrees = Transformer.from_crs(str(box.crs), "EPSG:4326", always_xy=True)
    (lon, lat), (lon_x, lat_x), (lon_y, lat_y) = (to_degrees.transform(*c) for c in ((x, y), (x + a.a, y), (x, y + a.e)))
    geod = Geod(ellps="WGS84")
    return geod.inv(lon, lat, lon_y, lat_y)[2], geod.inv(lon, lat, lon_x, lat_x)[2]


def warped(folder: Path, box: GeoBox, resampling: str) -> np.ndarray:
    """rasterio.warp on the whole file at once; told the scale, because GDAL's guess depends on where the file ends."""
    (from_y, from_x), (to_y, to_x) = metres_yx(SCENE.grid), metres_yx(box)
    out = np.zeros(tuple(map(int, box.shape)), "u2")
    assert box.crs is not None
    with rasterio.open(folder / SCENE.file_name("data_1")) as src:
        reproject(
            src.read(1),
            out,
            src_transform=src.transform,
            src_crs=src.crs,
            src_nodata=0,
            dst_transform=box.affine,
            dst_crs=box.crs.to_wkt(),
            dst_nodata=0,
            resampling=Resampling[resampling],
            tolerance=1e-6,
            XSCALE=from_x / to_x,
            YSCALE=from_y / to_y,
        )
    return out


@pytest.mark.parametrize("grid", GRIDS)
def test_the_nearest_pixel_is_the_one_in_which_the_centre_lies(folder: Path, grid: str) -> None:
    """Exact, but for centres within a ten-thousandth of a pixel from an edge."""
    expected, from_edge_px = nearest(GRIDS[grid])
    got = read(folder, GRIDS[grid], "nearest")[0]
    clear_of_edges = from_edge_px > 1e-4
    np.testing.assert_array_equal(got[clear_of_edges], expected[clear_of_edges])
    assert (expected > 0).mean() > 0.4
    assert clear_of_edges.mean() > 0.99 or grid == "coarser, nested"


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "average"])
def test_resampled_pixels_are_rasterios(folder: Path, grid: str, resampling: str) -> None:
    """Within 0.5 % of the range of values (60,000): the scale of the kernel is taken in other places."""
    ours, theirs = (a.astype(int) for a in (read(folder, GRIDS[grid], resampling)[0], warped(folder, GRIDS[grid], resampling)))
    both = (ours > 0) & (theirs > 0)
    assert both.mean() > 0.4
    assert ((ours > 0) != (theirs > 0)).mean() < 0.02, "edges"
    assert np.abs(ours - theirs)[both].max() <= 300


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "lanczos", "average", "mode"])
def test_a_part_is_that_part_of_the_whole(folder: Path, grid: str, resampling: str) -> None:
    box = GRIDS[grid]
    whole = read(folder, box, resampling)[0]
    (y, x) = (int(n) // 3 for n in box.shape)
    for window in (np.s_[:y, :x], np.s_[y : 2 * y + 1, x:], np.s_[y : y + 1, x : x + 1], np.s_[2 * y :, : 2 * x]):
        np.testing.assert_array_equal(read(folder, box[window], resampling)[0], whole[window])


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "average"])
def test_two_bands_of_a_file_at_once_are_each_as_alone(tmp_path: Path, resampling: str) -> None:
    """Also where one of them has no data: a hole in red makes none in near infrared."""
    write_files(SCENE, tmp_path)
    path = tmp_path / SCENE.file_name("data_1")
    with rasterio.open(path, "r+") as file:
        red = file.read(1)
        red[20:70, 30:90] = 0
        file.write(red, 1)
    box = GRIDS["finer, shifted"]
    both = read(tmp_path, box, resampling, "B04", "B08")
    for row, name in enumerate(("B04", "B08")):
        np.testing.assert_array_equal(both[row], read(tmp_path, box, resampling, name)[0])
    assert (both[0] == 0).sum() > (both[1] == 0).sum()


def test_pixels_around_a_reprojected_file_have_no_data(folder: Path) -> None:
    pixels = read(folder, GRIDS["degrees"].pad(60), "bilinear")[0]
    assert (pixels[:20] == 0).all()
    assert (pixels[:, :20] == 0).all()
    assert (pixels[-20:] == 0).all()
    assert (pixels[:, -20:] == 0).all()
    assert (pixels > 0).mean() > 0.1


@pytest.mark.parametrize(
    ("inner", "outer", "origin"),
    [
        pytest.param(make_grid((10, 10)), make_grid((4, 4), corner_xy=(600_020, 5_000_010)), (3, 2), id="inside"),
        pytest.param(make_grid((10, 10)), make_grid((4, 4), corner_xy=(599_980, 5_000_050)), (-1, -2), id="sticks out"),
        pytest.param(make_grid((10, 10)), make_grid((4, 4), corner_xy=(600_020.005, 5_000_010)), (3, 2), id="by rounding"),
        pytest.param(make_grid((10, 10)), make_grid((4, 4), corner_xy=(600_025, 5_000_010)), None, id="half a pixel off"),
        pytest.param(make_grid((10, 10)), make_grid((4, 4), resolution=20), None, id="coarser"),
        pytest.param(make_grid((10, 10)), make_grid((4, 4), crs="EPSG:32634"), None, id="another zone"),
        pytest.param(make_grid((10, 10)), make_grid((4000, 4000), resolution=10.00001), None, id="drifts off"),
    ],
)
def test_grids_on_one_lattice_are_recognised(inner: GeoBox, outer: GeoBox, origin: tuple[int, int] | None) -> None:
    assert aligned_origin(inner, outer) == origin


def test_a_file_without_a_crs_is_not_reprojected(tmp_path: Path) -> None:
    scene = make_series(1)[0]
    write_files(scene, tmp_path)
    path = tmp_path / scene.file_name("B04")
    with rasterio.open(path) as src:
        profile, pixels = {**src.profile, "crs": None}, src.read()
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
    asset = Asset(href=str(path), key="B04", dtype="uint16", nodata=0)
    with pytest.raises(AssetReadError, match=r"B04.*has no CRS"):
        RasterioReader().read([asset], GRIDS["degrees"], item_id="i", resampling="nearest")


@pytest.mark.parametrize(
    ("dtype", "tag", "nodata"),
    [
        pytest.param("uint16", None, 0.0, id="the file has no tag"),
        pytest.param("float32", float("nan"), float("nan"), id="NaN equals NaN"),
        pytest.param("float32", float(np.finfo("f4").min), -3.4028235e38, id="float32's lowest, fewer digits"),
    ],
)
def test_equal_marks_of_empty_pixels_are_read(tmp_path: Path, dtype: str, tag: float | None, nodata: float) -> None:
    box = make_grid((4, 5))
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=1, height=4, width=5, dtype=dtype, crs="EPSG:32635",
        transform=box.affine, nodata=tag,
    ) as file:  # fmt: skip
        file.write(np.full((1, 4, 5), 3, dtype))
    asset = Asset(href=str(tmp_path / "a.tif"), key="a", dtype=dtype, nodata=nodata)
    assert (RasterioReader().read([asset], box, item_id="i", resampling="nearest") == 3).all()


@pytest.mark.parametrize(
    ("dtype", "value", "holds"),
    [
        ("uint16", -9999, False),
        ("uint8", 255, True),
        ("uint8", 256, False),
        ("int16", float("nan"), False),
        ("uint16", 0.5, False),
        ("float32", float("nan"), True),
    ],
    ids=str,
)
def test_a_tag_that_no_pixel_can_equal_says_nothing(dtype: str, value: float, *, holds: bool) -> None:
    assert can_hold(dtype, value) is holds


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A folder with a file of a name that no other test asks GDAL for: it remembers addresses in the process."""
    write_files(SCENE, tmp_path)
    name = f"{uuid.uuid4().hex}.tif"
    (tmp_path / SCENE.file_name("data_1")).rename(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("status", [503, 500, 429, 404])
@pytest.mark.parametrize("failures", [1, 2])
def test_a_remote_file_is_tried_again(remote: Path, status: int, failures: int) -> None:
    with counting_server(remote.parent, fault=lambda n: status if n < failures else None) as server:
        asset = Asset(href=f"{server.url}/{remote.name}", key="data_1", bidx=1, dtype="uint16", nodata=0)
        pixels = RasterioReader(retries=3, backoff_s=0.01).read([asset], SCENE.grid, item_id="i", resampling="nearest")
        np.testing.assert_array_equal(pixels[0], SCENE.file_pixels("B04"))
        assert RasterioReader(retries=1).describe(asset.href).geobox == SCENE.grid


def test_a_file_that_failed_for_good_can_be_read_later_in_the_same_process(remote: Path) -> None:
    broken = True
    with counting_server(remote.parent, fault=lambda _: 503 if broken else None) as server:
        asset = Asset(href=f"{server.url}/{remote.name}", key="data_1", bidx=1, dtype="uint16", nodata=0)
        reader = RasterioReader(retries=3, backoff_s=0.01)
        with pytest.raises(AssetReadError, match="503"):
            reader.read([asset], SCENE.grid, item_id="i", resampling="nearest")
        assert len(server.requests) >= 3, "a second and a third try reach the server"
        broken = False
        pixels = reader.read([asset], SCENE.grid, item_id="i", resampling="nearest")
        np.testing.assert_array_equal(pixels[0], SCENE.file_pixels("B04"))


def test_a_second_window_of_a_remote_file_asks_for_no_header_again(remote: Path) -> None:
    with counting_server(remote.parent) as server:
        asset = Asset(href=f"{server.url}/{remote.name}", key="data_1", bidx=1, dtype="uint16", nodata=0)
        for window in (np.s_[:32, :32], np.s_[:32, :32]):
            before = len(server.requests)
            RasterioReader().read([asset], SCENE.grid[window], item_id="i", resampling="nearest")
        assert len(server.requests) == before


def test_a_local_file_is_tried_once(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(AssetReadError, match=r"gone\.tif"):
        RasterioReader(retries=5, backoff_s=10).describe(str(tmp_path / "gone.tif"))
    assert time.monotonic() - started < 5


# ------------------------------------------------------------------------------------------------ what is no raster file


OPENS_A_PIPE = """
import sys
from eocube.errors import AssetReadError
from eocube.io.geotiff import GeoTiffReader
from eocube.io.rasters import RasterioReader
from eocube.model.scene import Asset
from eocube.testing.stac import make_grid

href = sys.argv[1]
read = [Asset(href=href, key="B04")], make_grid((4, 4))
for reader in (RasterioReader(), GeoTiffReader()):
    for act in (lambda: reader.describe(href), lambda: reader.read(*read, item_id="i", resampling="nearest")):
        try:
            act()
        except AssetReadError as e:
            print(e.reason)
"""


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_named_pipe_is_refused_and_nobody_waits_for_its_writer(tmp_path: Path, form: str) -> None:
    """In a process of its own: one that waits inside GDAL heeds no signal but the last."""
    os.mkfifo(tmp_path / "B04_20m.tif")
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", OPENS_A_PIPE, form.format(tmp_path / "B04_20m.tif")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said, _ = child.communicate(timeout=60)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert said.splitlines() == ["it is a named pipe, not a file"] * 4


def test_devices_and_sockets_are_refused_also_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zero.tif").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 letters
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.tif")
        for name, kind in (("zero.tif", "a character device"), ("socket.tif", "a socket")):
            with pytest.raises(AssetReadError, match=f"it is {kind}, not a file"):
                RasterioReader().describe(name)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"", r"it is empty \(0 bytes\) \(GDAL: .*not recognized", id="empty"),
        pytest.param(b"<html>\n  <body>404", "it is text, beginning with '<html> <body>404'", id="text"),
        pytest.param("é".encode() * 40, "it is text, beginning with 'éé", id="text of letters of two bytes"),
        pytest.param(b"x" + "é".encode() * 40, "it is text, beginning with 'xé", id="text cut inside a letter"),
        pytest.param(b"\x00\x01\x02\xff" * 9, r"from \S*: '[^']*' not recognized", id="bytes of no known format"),
        pytest.param(None, "it is a folder", id="folder"),
    ],
)
def test_what_gdal_does_not_recognise_is_described_as_far_as_a_look_tells(tmp_path: Path, body: bytes | None, says: str) -> None:
    path = tmp_path / "a.tif"
    path.mkdir() if body is None else path.write_bytes(body)
    for reader in (RasterioReader(), GeoTiffReader()):
        with pytest.raises(AssetReadError, match=says):
            reader.read([Asset(href=str(path), key="B04")], SCENE.grid, item_id="i", resampling="nearest")
