"""Schemas of the ops with kernels: the same texts as in csrc/ops.cpp (a test compares the two)."""

SCHEMAS = (
    "_adain(Tensor x, Tensor? scale, Tensor? shift, float eps, str activation, Tensor? residual,"
    " int pad=0, bool replicate=False) -> (Tensor, Tensor, Tensor)",
    "_adain_backward(Tensor grad, Tensor x, Tensor? scale, Tensor? shift, Tensor mean, Tensor rstd, str activation,"
    " int pad=0, bool replicate=False) -> (Tensor, Tensor, Tensor)",
    "_layer_norm(Tensor x, Tensor weight, Tensor bias, float eps, str activation, int pad=0, bool replicate=False)"
    " -> (Tensor, Tensor, Tensor)",
    "_layer_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd,"
    " str activation, int pad=0, bool replicate=False) -> (Tensor, Tensor, Tensor)",
    "_blur_down(Tensor x) -> Tensor",
    "_blur_down_backward(Tensor grad, SymInt height, SymInt width, bool channels_last) -> Tensor",
    "_blur_up(Tensor x) -> Tensor",
    "_blur_up_backward(Tensor grad, bool channels_last) -> Tensor",
    "_reflect_pad(Tensor x, int size) -> Tensor",
    "_reflect_pad_backward(Tensor grad, int size, bool channels_last) -> Tensor",
    "_patch_nce(Tensor query, Tensor key, Tensor? extra, Tensor? offsets, float temperature, str negatives,"
    " bool decoupled, bool normalize, bool query_grad, bool key_grad) -> (Tensor, Tensor, Tensor, Tensor)",
    "_patch_nce_backward(Tensor grad, Tensor query, Tensor key, Tensor? extra, Tensor? offsets, Tensor denominator,"
    " Tensor unit_grad, Tensor unit_key_grad, float temperature, str negatives, bool decoupled, bool"
    " normalize, bool need_query,"
    " bool need_key, bool need_extra) -> (Tensor, Tensor, Tensor)",
    "_patch_nce_layers(Tensor[] queries, Tensor[] keys, Tensor[] extras, Tensor[] offsets, float temperature,"
    " str negatives, bool decoupled, bool normalize, bool query_grad, bool key_grad)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    "_patch_nce_layers_backward(Tensor grad, Tensor[] queries, Tensor[] keys, Tensor[] extras, Tensor[] offsets,"
    " Tensor denominator, Tensor unit_grad, Tensor unit_key_grad, float temperature, str negatives, bool decoupled,"
    " bool normalize, bool need_query, bool need_key, bool need_extra) -> (Tensor, Tensor, Tensor)",
    "_memory_read(Tensor content, Tensor keys, Tensor values, Tensor? pixel_class, Tensor? item_class,"
    " float temperature=1.0) -> (Tensor, Tensor, Tensor)",
    "_memory_read_backward(Tensor grad, Tensor content, Tensor keys, Tensor values, Tensor cosines, Tensor rnorm,"
    " bool need_content, bool need_keys, bool need_values, float temperature=1.0) -> (Tensor, Tensor, Tensor)",
    "_memory_update(Tensor keys, Tensor values, Tensor[] contents, Tensor[] styles, Tensor[] pixel_classes,"
    " Tensor? item_class, float temperature=1.0) -> (Tensor, Tensor)",
    "_memory_contrast(Tensor features, Tensor items, float temperature, Tensor? pixel_class, Tensor? item_class)"
    " -> (Tensor, Tensor, Tensor)",
    "_memory_contrast_backward(Tensor grad, Tensor features, Tensor items, Tensor logit_grad, float temperature,"
    " bool need_features, bool need_items) -> (Tensor, Tensor)",
    "_sample_patch_ids(Tensor keys, SymInt num_positions, SymInt num_patches) -> Tensor",
    "_gather_patches(Tensor features, Tensor ids) -> Tensor",
    "_gather_patches_backward(Tensor grad, Tensor ids, SymInt channels, SymInt height, SymInt width,"
    " bool channels_last) -> Tensor",
    "_dag_select(Tensor score, Tensor candidates, SymInt height, SymInt width, SymInt num_patches, SymInt first)"
    " -> Tensor",
)
