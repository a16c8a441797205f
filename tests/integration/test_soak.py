"""A few seconds of bench/soak.py: that it loads, measures and draws."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from benches import bench


def test_a_server_at_mixed_load_is_sampled_and_plotted(tmp_path: Path) -> None:
    soak = bench("soak")
    result = soak.run(minutes=0.05, seed=1, data_dir=tmp_path, interval_s=0.3)
    outcomes = {name.split()[-1] for name in result.calls}
    assert "OK" in outcomes
    assert outcomes <= soak.EXPECTED
    assert len(result.samples) > 2
    assert min(sample.server_mib for sample in result.samples) > 10
    plot = ElementTree.fromstring(soak.plot(result))
    assert len(plot.findall("{http://www.w3.org/2000/svg}polyline")) == 5
