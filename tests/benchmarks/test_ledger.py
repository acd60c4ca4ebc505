"""What benchmarks/ledger.py prints."""

import sys

from benchmarks import ledger


def test_a_configuration_with_scale_at_shares_of_the_peak_rates(monkeypatch, capsys):
    command = ["ledger.py", "--config", "ffhq256-32gpu", "--resolution", "16", "--chip", "H200"]
    times = []
    for shares in ([], ["--shares", "0.5", "0.5"]):
        monkeypatch.setattr(sys, "argv", command + shares)
        ledger.main()
        said = capsys.readouterr().out
        assert "| 16 / 128 |" in said and ("at 50% of its matrix rate" in said) == bool(shares)
        times.append(float(said.split("| ")[-2]))  # ms
    assert times[1] > 1.9 * times[0]
