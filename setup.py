"""What pyproject.toml cannot say: the kernels' place and their compilation."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

CPU = Path("kernels", "cpu")


def files(*endings: str) -> list[str]:
    return sorted(str(path) for ending in endings for path in CPU.glob(f"*{ending}"))


setup(
    # Installed as a top-level package of its own, kernels/ would clash with others of that name.
    packages=[*find_packages(include=["hpc_fl*"]), "hpc_fl._kernels"],
    package_dir={"hpc_fl._kernels": "kernels"},
    ext_modules=[
        Extension(
            "hpc_fl._kernels._cpu",
            files(".cpp"),
            depends=files(".h", ".inl"),
            language="c++",
            # Products and sums are not contracted: every instruction set has the reference's bits.
            extra_compile_args=["-std=c++17", "-O3", "-ffp-contract=off", "-fopenmp", "-Wall", "-Wextra"],
            extra_link_args=["-fopenmp"],
            optional=True,  # without a compiler the reference takes its place, and `hpc-fl doctor` says so
        )
    ],
)
