"""Packaging of pix2seq_jax: `pip install -e .[test]`."""

from pathlib import Path

from setuptools import find_packages, setup

# Lower bounds are the versions the tests were run with on Python 3.11, or the ones an accelerator
# image had on 3.12.
CORE = [
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "ml-collections>=1.1.0",
    "clu>=0.0.12",
    "tensorflow-cpu>=2.21.0; platform_system == 'Linux' and platform_machine == 'x86_64'",
    "tensorflow>=2.21.0; platform_system != 'Linux' or platform_machine != 'x86_64'",
    "tensorflow-datasets>=4.9.10",
    "tensorboard>=2.21.0",
    "pycocotools>=2.0.11",
    "sentencepiece>=0.2.1",
    "pillow>=12.0",
    "simplejpeg>=1.9",
    "opencv-python-headless>=5.0",
    "threadpoolctl>=3.6",
    "contourpy>=1.3",
    "shapely>=2.0",
    "tqdm>=4.67",
    "array-record>=0.8.6",
    "pyyaml>=6.0",
    "safetensors>=0.8",
    "h5py>=3.14",
]
SERVE = [
    "starlette>=1.10",
    "uvicorn>=0.54",
    "python-multipart>=0.0.34",
    "prometheus-client>=0.26",
]
NOTEBOOKS = ["nbclient>=0.11", "nbformat>=5.11", "ipykernel>=7.4"]  # runs those in colabs/
# matplotlib: polygons of another hand; xdist: two tests at a time, since compiling uses one core;
# importlib-resources: TFDS imports it to build a data set
TEST = [
    "pytest>=9.0",
    "pytest-xdist>=3.8",
    "ruff==0.17.5",
    "matplotlib>=3.10",
    "importlib-resources>=6.5",
    "httpx>=0.28",
    *NOTEBOOKS,
]
# The site of docs/; the tests build it. Sphinx 9.0 is the last one for Python 3.11.
DOCS = ["sphinx>=9.0", "myst-parser>=5.2", "sphinx-autoapi>=3.9", "furo>=2025.12"]
# What the command `tfds build` imports and tensorflow-datasets does not bring.
TFDS = ["apache-beam>=2.77", "mlcroissant>=1.1", "importlib-resources>=6.5"]
VIDEO = ["av>=18.0"]  # predict on videos
SUPERVISION = ["supervision>=0.31"]  # Prediction.to_supervision
TRACKERS = ["wandb>=0.31", "mlflow-skinny>=3.17"]  # config.train.trackers
GCS = ["google-cloud-storage>=3.17"]  # workdirs on gs://: Orbax looks at the bucket with it
ORACLE = ["pycocoevalcap>=1.2"]  # a test compares the caption metrics with it; 100 MB
# Encoders of the libraries that `config.init_encoder` reads; a trial compares ours with them.
PRETRAINED_CHECK = ["torch>=2.13", "torchvision>=0.28", "timm>=1.0.31", "transformers>=5.24"]

setup(
    name="pix2seq_jax",
    version="0.1.0",
    description="Pix2Seq and Pix2Seq v2 in JAX: vision tasks as language modelling",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # The shipped configs, which stand at the top of a checkout, go into an installed package.
    packages=[*find_packages(include=["pix2seq_jax", "pix2seq_jax.*"]), "pix2seq_jax.configs"],
    package_dir={"pix2seq_jax.configs": "configs"},
    package_data={"pix2seq_jax.serving": ["page.html"]},
    entry_points={"console_scripts": ["pix2seq = pix2seq_jax.commands:main"]},
    python_requires=">=3.11",
    install_requires=CORE,
    extras_require={
        "test": TEST + SERVE + VIDEO + SUPERVISION + TRACKERS + DOCS + GCS,
        "docs": DOCS,
        "serve": SERVE,
        "notebooks": NOTEBOOKS,
        "gcs": GCS,
        "oracle": ORACLE,
        "tfds": TFDS,
        "trackers": TRACKERS,
        "video": VIDEO,
        "supervision": SUPERVISION,
        "pretrained_check": PRETRAINED_CHECK,
    },
)
