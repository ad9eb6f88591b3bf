"""What pyproject.toml cannot say: the kernels' place and their compilation."""

from setuptools import Extension, find_packages, setup

setup(
    # Installed as a top-level package of its own, kernels/ would clash with others of that name.
    packages=[*find_packages(include=["hpc_fl*"]), "hpc_fl._kernels"],
    package_dir={"hpc_fl._kernels": "kernels"},
    package_data={"hpc_fl._kernels": ["cpu/*", "cuda/*"]},
    ext_modules=[
        Extension(
            "hpc_fl._kernels._cpu",
            [
                f"kernels/cpu/{name}.cpp"
                for name in (
                    "call",
                    "index",
                    "isa",
                    "isa_avx2",
                    "isa_avx512",
                    "isa_portable",
                    "quantize",
                    "sign",
                    "sparse",
                    "topk",
                )
            ],
            depends=[f"kernels/cpu/{name}" for name in ("blocks.h", "blocks.inl", "kernels.h", "lanes.inl", "parts.h")],
            language="c++",
            # Products and sums are not contracted: every instruction set has the reference's bits.
            extra_compile_args=["-std=c++17", "-O3", "-ffp-contract=off", "-fopenmp", "-Wall", "-Wextra"],
            extra_link_args=["-fopenmp"],
            optional=True,  # without a compiler the reference takes its place, and `hpc-fl doctor` says so
        )
    ],
)
