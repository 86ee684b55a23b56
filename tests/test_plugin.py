"""Packages of others: installed into an environment of their own, listed without import, isolated when broken."""

import pathlib
import subprocess
import sys
import sysconfig

import pytest

from tests.markdown import ROOT, blocks


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh environment that sees this one's packages, with the example plugin installed by pip."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (pathlib.Path(purelib) / "outer.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    copy = tmp_path_factory.mktemp("source") / "plugin"
    subprocess.run(["cp", "-r", str(ROOT / "examples" / "plugin"), str(copy)], check=True)
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return python, pathlib.Path(purelib), copy


def run(python, code, **options):
    done = subprocess.run(
        [python, "-W", "error::RuntimeWarning", "-c", code], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plugin_is_listed_without_being_imported_and_builds_when_named(environment, tmp_path):
    python, _, _ = environment
    out = run(python, f"""
import sys, torch, vaekit
assert 'fourier' in vaekit.encoder and 'histogram' in vaekit.prior.names()
assert not [m for m in sys.modules if m.startswith('vaekit_fourier')], 'listing imports nothing'
vae = vaekit.build('vae', input_shape=(6,), latent=2, encoder=vaekit.use('fourier', features=8))
assert 'vaekit_fourier.encoder' in sys.modules and 'vaekit_fourier.prior' not in sys.modules
x = torch.rand(40, 6)
optimizer = torch.optim.Adam(vae.parameters())
vae.loss(x).total.backward()
optimizer.step()
vae.fit_prior('histogram', x)
vae.save_pretrained({str(tmp_path)!r})
expected = vae.reconstruct(x)
assert torch.equal(vaekit.load({str(tmp_path)!r}).reconstruct(x), expected)
assert vaekit.build(vae.spec).spec == vae.spec
assert 'rahimi2007' in vaekit.cite(vae)
print(vaekit.encoder.about('fourier'))
""")  # fmt: skip
    assert "package vaekit-fourier 0.1.0" in out and "random B that stays" in out
    run(
        python,
        f"import sys, vaekit; vae = vaekit.load({str(tmp_path)!r}); assert 'vaekit_fourier.prior' in sys.modules",
    )


def test_the_plugins_own_tests_pass(environment):
    python, _, copy = environment
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(copy), str(copy / "tests")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_blocks_of_the_plugins_page_run(environment, tmp_path):
    python, _, copy = environment
    page = blocks(copy / "README.md")
    run(python, "\n".join(b.text for b in page if b.language == "python"), cwd=tmp_path)
    (command,) = [line for b in page for line in b.text.splitlines() if line.startswith("vaekit ")]
    done = subprocess.run([python, "-m", "vaekit.cli", *command.split()[1:]], capture_output=True, text=True)
    assert done.returncode == 0 and "random B" in done.stdout, done.stdout + done.stderr


def offer(folder, package, kind, name, target):
    """Pretend that a package offers a part, as an installer writes it down."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[vaekit.{kind}]\n{name} = {target}\n")


def test_a_broken_plugin_is_told_and_the_rest_works(environment, tmp_path):
    python, _, _ = environment
    (tmp_path / "torn.py").write_text("raise RuntimeError('torn in two')")
    offer(tmp_path, "torn-pack", "encoder", "torn", "torn:Encoder")
    run(python, f"""
import sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
import vaekit
assert {{'torn', 'fourier', 'mlp'}} <= set(vaekit.encoder.names())
try:
    vaekit.build('vae', encoder='torn')
except ImportError as error:
    assert "encoder 'torn' from package torn-pack 1.0 (torn:Encoder) failed to load: torn in two" in str(error), error
    assert isinstance(error.__cause__, RuntimeError)
else:
    raise AssertionError
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    names = vaekit.encoder.names()
assert 'torn' in names and 'is broken: torn in two' in str(told[0].message), told
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    assert vaekit.encoder.names(tags='tabular') == ['fourier', 'mlp', 'perceiver']
from vaekit.cli import main
with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    assert main(['list', 'encoder']) == main(['env']) == 0
assert vaekit.build('vae', latent=2, encoder='mlp').encoder is not None
""")  # fmt: skip


def test_a_plugin_can_not_take_a_name_of_vaekits_own(environment, tmp_path):
    python, _, _ = environment
    (tmp_path / "greedy.py").write_text("raise RuntimeError('never imported')")
    offer(tmp_path, "greedy-pack", "encoder", "mlp", "greedy:Encoder")
    run(python, f"""
import sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
import vaekit
assert vaekit.encoder['mlp'].__module__ == 'vaekit.encoders.mlp'
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    vaekit.encoder.names()
assert "encoder 'mlp' from package greedy-pack 1.0 (greedy:Encoder) is not used" in str(told[0].message), told
""")  # fmt: skip


def test_two_plugins_with_one_name_are_an_error_that_names_both(environment, tmp_path):
    python, _, _ = environment
    for package in ("first-pack", "second-pack"):
        offer(tmp_path, package, "encoder", "shared", f"{package.split('-')[0]}:Encoder")
    run(python, f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import vaekit
try:
    vaekit.encoder['shared']
except ImportError as error:
    assert 'first-pack 1.0' in str(error) and 'second-pack 1.0' in str(error) and 'Uninstall one' in str(error)
else:
    raise AssertionError
""")  # fmt: skip


def test_a_plugin_of_another_kind_is_refused(environment, tmp_path):
    python, _, _ = environment
    (tmp_path / "mistaken.py").write_text("class NotAnEncoder: ...")
    offer(tmp_path, "mistaken-pack", "encoder", "mistaken", "mistaken:NotAnEncoder")
    run(python, f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import vaekit
try:
    vaekit.encoder['mistaken']
except ImportError as error:
    assert "'NotAnEncoder' does not extend vaekit.kinds.Encoder" in str(error), error
else:
    raise AssertionError
""")  # fmt: skip
