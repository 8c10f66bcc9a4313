#!/usr/bin/env bash
# Resolves cpu.in and gpu.in into cpu.txt and gpu.txt, for every Python that Shoal supports.
set -euo pipefail
cd "$(dirname "$0")"
uv=../../.venv/bin/uv
resolve() { "$uv" pip compile --universal --python-version 3.11 --no-annotate --no-header --quiet "$1"; }
cpu=$(resolve cpu.in)
{
  echo '# Made by `make lock` from cpu.in: everything but torch (the Makefile installs its CPU build first), without torchvision, torchaudio,'
  echo '# torchcodec and triton: their plain builds need CUDA, and Shoal serves text. Install with --no-deps.'
  grep -vE '^(torch|torchaudio|torchcodec|torchvision|triton)==' <<<"$cpu"
} > cpu.txt
{
  echo '# Made by `make lock` from gpu.in. Install with --no-deps.'
  resolve gpu.in
} > gpu.txt
{
  echo '# Made by `make lock`: cpu.txt with torch, for the image of a Bento (bentofile.yaml).'
  echo '--extra-index-url https://download.pytorch.org/whl/cpu'
  echo 'torch==2.13.0+cpu'
  grep -v '^#' cpu.txt
} > bento.txt
