#!/bin/sh
# The tests' virtual environment: diffusers and transformers, beside the torch of build/venv.
cd "$(dirname "$0")/../.."
. cmake/setup/common.sh

tests=build/venv-test
install_packages cmake/setup/packages-tests.txt
[ -x "$tests/bin/python" ] || python3 -m venv "$tests"
# Torch is 4.6 GB: the tests' environment sees the one that is installed.
python=$venv/bin/python
[ -x "$python" ] || python=python3
site=$("$tests/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import importlib.util as u, os; print(os.path.dirname(u.find_spec("torch").submodule_search_locations[0]))' > "$site/frameshard-torch.pth"
install_python "$tests" cmake/setup/requirements-tests.txt

# A second MPI, so that both versions that the launcher knows are tested.
install_python build/venv-openmpi5 cmake/setup/requirements-openmpi5.txt
