"""Sources that an export carries for models that no Hugging Face class expresses: plain PyTorch, without mmjax.

They are copied into the exported folder, where `AutoModel.from_pretrained(DIR, trust_remote_code=True)` loads them.
"""
