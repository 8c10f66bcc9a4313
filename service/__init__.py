"""The inference service: an OpenAI-compatible facade over one multi-LoRA engine, and the API that moves versions."""
