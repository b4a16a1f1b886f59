"""One folder an ablation; `ovit_core.study.registry` names them."""
