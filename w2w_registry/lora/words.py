"""The words that layers of diffusers' models are named with, by which a flattened name gets its dots back.

Collected from the models' own module names, UNets' among them. A name with a word that is none of these is left as it
is: whether its underscores were dots cannot be told.
"""

from __future__ import annotations

import re

_WORDS = """
adaLN_modulation adaln_global_mlp adaln_modulation adaln_proj adaln_single add_k_proj add_q_proj add_time_condition
add_v_proj all_final_layer all_final_layer.2-1 all_x_embedder all_x_embedder.2-1 aspect_ratio_embedder attention
attention_blocks attentions attn attn1 attn2 audio_attn1 audio_attn2 audio_caption_projection audio_dec_block
audio_embeddings audio_ff audio_heads audio_out_layer audio_pooled_text_embeddings audio_proj_in audio_proj_out
audio_text_embeddings audio_text_transformer_blocks audio_time_embed audio_time_embeddings audio_to_video_attn
av_cross_attention av_cross_attn_audio_scale_shift av_cross_attn_audio_v2a_gate av_cross_attn_video_a2v_gate
av_cross_attn_video_scale_shift av_modulation beta_proj block blocks c_proj cap_embedder caption_embedder
caption_proj caption_projection channelwise channelwise_linear_1 channelwise_linear_2 clf clip_img_mapper
clip_mapper clip_txt_mapper clip_txt_pooled_mapper cond_embed cond_embeds_mapper condition_embedder
context_embedder context_embedder_2 context_embedding context_mlp context_refiner conv conv1 conv1_local conv2
conv3 conv4 conv_depth conv_in conv_inverted conv_out conv_point conv_shortcut conv_temp cross_attention
cross_attention_proj cross_attn delta_embedder depth_conv depthwise distilled_guidance_layer double_blocks
double_stream_blocks double_stream_modulation_img double_stream_modulation_txt down down_block down_blocks
down_downscalers down_proj down_sample downsamplers dwconv early_stream_modulations effnet_mapper emb embed
embedding embedding_proj encoder_hid_proj encoder_hidden_states_proj encoder_proj experts extra_embedder
face_adapter face_encoder far_patch_embedding fc1 fc2 feed_forward ff ff.out_projection ff_context ff_i ff_in
ff_out ff_t ffn final_layer final_linear final_norm fps_embedding gate gate_layer gate_proj gate_up_proj
global_cond_embedder global_proj glyph_projector group_norm guidance_embedder head image image_cond image_embedder
image_latents_context_embedding image_latents_proj_in image_latents_temporal_encoder image_projector img_attn
img_attn_proj img_attn_qkv img_emb img_in img_mlp img_mod img_qkv_proj in_layer in_norm in_proj input_embed
input_image_proj input_proj inverted_conv joint_transformer_blocks k_norm k_proj k_proj_cam kv_linear kv_mapper
kv_proj latent_cond_embedder latent_embed layers layerwise_blocks lin linear linear_1 linear_2 linear_3 linear_fc2
linear_in linear_out llm_cond_proj lm_head mapper mapper_crp mapper_sca mid_block mlm_layer mlp mlp_in mlp_moe_gen
mlp_out mlp_x mlp_y mode_blocks modulation motion_modules net noise_refiner norm norm1 norm1_context norm2 norm3
norm_added_k norm_added_q norm_k norm_out norm_q o_proj out out_layer out_norm out_proj out_proj_cam out_projection
output_gate output_image_proj p_embedder patch_embed patch_embedder patch_embedding patch_long patch_mid
patch_short perceiver pixels_mapper plucker_embedder plucker_proj point_conv pointwise pooled_embedder
pooled_text_embeddings pooler pos_embed pose_patch_embedding postprocess_conv preprocess_conv prior_projector proj
proj_in proj_in_conv proj_mlp proj_out proj_out_1 proj_out_2 proj_to_clip_embeddings proj_x proj_y
project_from_hidden project_to_hidden projection projection_linear projector pwconv1 pwconv2 q_linear q_norm q_proj
q_proj_cam qkv qkv_proj qkv_x qkv_y raymap_embedder refiner_blocks res_blocks resnet_blocks resnets resnets_in
resnets_out resolution_embedder self_attention self_attn shared_expert shared_experts shortcut_down_sample
shortcut_projection single_stream_blocks single_stream_modulation single_stream_modulations
single_transformer_blocks skip_linear t_block t_conv t_embedder t_embedding temp_attentions temp_convs
temporal_transformer_blocks text_conv_layer text_embed text_embedder text_embedding text_embeddings text_fusion
text_modulation text_proj text_transformer_blocks time_caption_embed time_condition_embed time_emb_proj time_embed
time_embed_r time_embedder time_embedding time_embeddings time_extra_emb time_guidance_embed time_in time_mlp
time_mod_proj time_proj time_projection time_step_proj time_text_embed time_token timestep_embedder timestep_proj
to_add_out to_added_qkv to_cond_embed to_gate to_global_embed to_k to_k_t to_key to_kv to_local_embed to_out
to_out_t to_q to_q_t to_qkv to_qkv_mlp_proj to_query to_timestep_embed to_v to_v_t to_value token_refiner
transformer_blocks transformer_in transformer_layers txt txt_attn txt_attn_proj txt_attn_qkv txt_ff txt_in
txt_kv_proj txt_mlp txt_mod txt_mode_blocks up up_block up_blocks up_proj upsamplers v_proj v_proj_cam
va_cross_attention va_modulation vace_blocks vace_patch_embedding video_dec_block video_pooled_text_embeddings
video_text_embeddings video_text_transformer_blocks video_time_embeddings video_to_audio_attn visual_embeddings
visual_modulation visual_transformer_blocks w1 w2 w3 x_embedder x_embedders y_embedder y_proj
"""
_BY_TOKENS = {tuple(re.split("[_.-]", word)): word for word in _WORDS.split()}
_LONGEST = max(map(len, _BY_TOKENS))


def dotted(flat: str) -> str | None:
    """``transformer_blocks_0_attn_to_out_0`` → ``transformer_blocks.0.attn.to_out.0``; None where a word is unknown.

    The longest word that fits is meant: no name of those collected means two layers.
    """
    tokens, found, at = re.split("[_-]", flat), [], 0
    while at < len(tokens):
        size = next((n for n in range(_LONGEST, 0, -1) if tuple(tokens[at : at + n]) in _BY_TOKENS), 0)
        if not size and not tokens[at].isdecimal():
            return None
        found.append(_BY_TOKENS[tuple(tokens[at : at + size])] if size else tokens[at])
        at += size or 1
    return ".".join(found)
