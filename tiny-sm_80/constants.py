"""The constants of the generated code, computed once from parameters."""

import torch
from torch import device, inf, nan
from mvc.passes.frozen.freeze import renew as mvc_passes_frozen_freeze_renew

PARAMETERS = (
    'patch_embed.conv_down.0.weight',
    'patch_embed.conv_down.1.running_mean',
    'patch_embed.conv_down.1.running_var',
    'patch_embed.conv_down.1.weight',
    'patch_embed.conv_down.1.bias',
    'patch_embed.conv_down.3.weight',
    'patch_embed.conv_down.4.running_mean',
    'patch_embed.conv_down.4.running_var',
    'patch_embed.conv_down.4.weight',
    'patch_embed.conv_down.4.bias',
    'levels.0.blocks.0.conv1.weight',
    'levels.0.blocks.0.conv1.bias',
    'levels.0.blocks.0.norm1.running_mean',
    'levels.0.blocks.0.norm1.running_var',
    'levels.0.blocks.0.norm1.weight',
    'levels.0.blocks.0.norm1.bias',
    'levels.0.blocks.0.conv2.weight',
    'levels.0.blocks.0.conv2.bias',
    'levels.0.blocks.0.norm2.running_mean',
    'levels.0.blocks.0.norm2.running_var',
    'levels.0.blocks.0.norm2.weight',
    'levels.0.blocks.0.norm2.bias',
    'levels.1.blocks.0.conv1.weight',
    'levels.1.blocks.0.conv1.bias',
    'levels.1.blocks.0.norm1.running_mean',
    'levels.1.blocks.0.norm1.running_var',
    'levels.1.blocks.0.norm1.weight',
    'levels.1.blocks.0.norm1.bias',
    'levels.1.blocks.0.conv2.weight',
    'levels.1.blocks.0.conv2.bias',
    'levels.1.blocks.0.norm2.running_mean',
    'levels.1.blocks.0.norm2.running_var',
    'levels.1.blocks.0.norm2.weight',
    'levels.1.blocks.0.norm2.bias',
    'levels.2.blocks.0.mixer.conv1d_z.weight',
    'levels.2.blocks.0.mixer.conv1d_x.weight',
    'levels.2.blocks.0.mixer.x_proj.weight',
    'levels.2.blocks.0.mixer.dt_proj.bias',
    'levels.2.blocks.0.mixer.dt_proj.weight',
    'levels.2.blocks.0.mixer.A_log',
    'levels.3.blocks.0.mixer.conv1d_z.weight',
    'levels.3.blocks.0.mixer.conv1d_x.weight',
    'levels.3.blocks.0.mixer.x_proj.weight',
    'levels.3.blocks.0.mixer.dt_proj.bias',
    'levels.3.blocks.0.mixer.dt_proj.weight',
    'levels.3.blocks.0.mixer.A_log',
)




def forward(self, L_self_modules_patch_embed_modules_conv_down_modules_0_parameters_weight_, L_self_modules_patch_embed_modules_conv_down_modules_1_buffers_running_mean_, L_self_modules_patch_embed_modules_conv_down_modules_1_buffers_running_var_, L_self_modules_patch_embed_modules_conv_down_modules_1_parameters_weight_, L_self_modules_patch_embed_modules_conv_down_modules_1_parameters_bias_, L_self_modules_patch_embed_modules_conv_down_modules_3_parameters_weight_, L_self_modules_patch_embed_modules_conv_down_modules_4_buffers_running_mean_, L_self_modules_patch_embed_modules_conv_down_modules_4_buffers_running_var_, L_self_modules_patch_embed_modules_conv_down_modules_4_parameters_weight_, L_self_modules_patch_embed_modules_conv_down_modules_4_parameters_bias_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv1_parameters_weight_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv1_parameters_bias_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_buffers_running_mean_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_buffers_running_var_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_parameters_weight_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_parameters_bias_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv2_parameters_weight_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv2_parameters_bias_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_buffers_running_mean_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_buffers_running_var_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_parameters_weight_, L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_parameters_bias_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv1_parameters_weight_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv1_parameters_bias_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_buffers_running_mean_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_buffers_running_var_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_parameters_weight_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_parameters_bias_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv2_parameters_weight_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv2_parameters_bias_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_buffers_running_mean_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_buffers_running_var_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_parameters_weight_, L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_parameters_bias_, L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_conv1d_z_parameters_weight_, L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_conv1d_x_parameters_weight_, L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_, L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_, L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_weight_, L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_parameters_A_log_, L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_conv1d_z_parameters_weight_, L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_conv1d_x_parameters_weight_, L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_, L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_, L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_weight_, L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_parameters_A_log_, old_to_13 = None, old_to_14 = None, old_to_20 = None, old_to_21 = None, old_to_28 = None, old_to_29 = None, old_to_36 = None, old_to_37 = None, old_to_44 = None, old_to_45 = None, old_to_52 = None, old_to_53 = None, old_to_3 = None, old_cat_4 = None, old_value_1 = None, old_add_10 = None, old_to_6 = None, old_cat_5 = None, old_value_5 = None, old_add_11 = None):
    l_self_modules_patch_embed_modules_conv_down_modules_0_parameters_weight_ = L_self_modules_patch_embed_modules_conv_down_modules_0_parameters_weight_
    l_self_modules_patch_embed_modules_conv_down_modules_1_buffers_running_mean_ = L_self_modules_patch_embed_modules_conv_down_modules_1_buffers_running_mean_
    l_self_modules_patch_embed_modules_conv_down_modules_1_buffers_running_var_ = L_self_modules_patch_embed_modules_conv_down_modules_1_buffers_running_var_
    l_self_modules_patch_embed_modules_conv_down_modules_1_parameters_weight_ = L_self_modules_patch_embed_modules_conv_down_modules_1_parameters_weight_
    l_self_modules_patch_embed_modules_conv_down_modules_1_parameters_bias_ = L_self_modules_patch_embed_modules_conv_down_modules_1_parameters_bias_
    l_self_modules_patch_embed_modules_conv_down_modules_3_parameters_weight_ = L_self_modules_patch_embed_modules_conv_down_modules_3_parameters_weight_
    l_self_modules_patch_embed_modules_conv_down_modules_4_buffers_running_mean_ = L_self_modules_patch_embed_modules_conv_down_modules_4_buffers_running_mean_
    l_self_modules_patch_embed_modules_conv_down_modules_4_buffers_running_var_ = L_self_modules_patch_embed_modules_conv_down_modules_4_buffers_running_var_
    l_self_modules_patch_embed_modules_conv_down_modules_4_parameters_weight_ = L_self_modules_patch_embed_modules_conv_down_modules_4_parameters_weight_
    l_self_modules_patch_embed_modules_conv_down_modules_4_parameters_bias_ = L_self_modules_patch_embed_modules_conv_down_modules_4_parameters_bias_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv1_parameters_weight_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv1_parameters_weight_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv1_parameters_bias_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv1_parameters_bias_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_buffers_running_mean_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_buffers_running_mean_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_buffers_running_var_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_buffers_running_var_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_parameters_weight_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_parameters_weight_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_parameters_bias_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_parameters_bias_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv2_parameters_weight_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv2_parameters_weight_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv2_parameters_bias_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv2_parameters_bias_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_buffers_running_mean_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_buffers_running_mean_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_buffers_running_var_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_buffers_running_var_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_parameters_weight_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_parameters_weight_
    l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_parameters_bias_ = L_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_parameters_bias_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv1_parameters_weight_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv1_parameters_weight_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv1_parameters_bias_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv1_parameters_bias_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_buffers_running_mean_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_buffers_running_mean_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_buffers_running_var_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_buffers_running_var_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_parameters_weight_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_parameters_weight_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_parameters_bias_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_parameters_bias_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv2_parameters_weight_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv2_parameters_weight_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv2_parameters_bias_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv2_parameters_bias_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_buffers_running_mean_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_buffers_running_mean_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_buffers_running_var_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_buffers_running_var_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_parameters_weight_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_parameters_weight_
    l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_parameters_bias_ = L_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_parameters_bias_
    l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_conv1d_z_parameters_weight_ = L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_conv1d_z_parameters_weight_
    l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_conv1d_x_parameters_weight_ = L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_conv1d_x_parameters_weight_
    l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_ = L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_
    l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_ = L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_
    l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_weight_ = L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_weight_
    l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_parameters_a_log_ = L_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_parameters_A_log_
    l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_conv1d_z_parameters_weight_ = L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_conv1d_z_parameters_weight_
    l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_conv1d_x_parameters_weight_ = L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_conv1d_x_parameters_weight_
    l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_ = L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_
    l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_ = L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_
    l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_weight_ = L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_weight_
    l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_parameters_a_log_ = L_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_parameters_A_log_
    to_8 = l_self_modules_patch_embed_modules_conv_down_modules_0_parameters_weight_.to(torch.float32);  l_self_modules_patch_embed_modules_conv_down_modules_0_parameters_weight_ = None
    to_9 = l_self_modules_patch_embed_modules_conv_down_modules_1_buffers_running_mean_.to(torch.float32);  l_self_modules_patch_embed_modules_conv_down_modules_1_buffers_running_mean_ = None
    to_10 = l_self_modules_patch_embed_modules_conv_down_modules_1_buffers_running_var_.to(torch.float32);  l_self_modules_patch_embed_modules_conv_down_modules_1_buffers_running_var_ = None
    to_11 = l_self_modules_patch_embed_modules_conv_down_modules_1_parameters_weight_.to(torch.float32);  l_self_modules_patch_embed_modules_conv_down_modules_1_parameters_weight_ = None
    to_12 = l_self_modules_patch_embed_modules_conv_down_modules_1_parameters_bias_.to(torch.float32);  l_self_modules_patch_embed_modules_conv_down_modules_1_parameters_bias_ = None
    add_16 = torch.add(to_10, 0.0001);  to_10 = None
    rsqrt = torch.rsqrt(add_16);  add_16 = None
    mul_6 = torch.mul(rsqrt, to_11);  rsqrt = to_11 = None
    neg_2 = torch.neg(to_9);  to_9 = None
    mul_7 = torch.mul(neg_2, mul_6);  neg_2 = None
    add_17 = torch.add(mul_7, to_12);  mul_7 = to_12 = None
    view = mul_6.view((-1, 1, 1, 1));  mul_6 = None
    mul_8 = torch.mul(to_8, view);  to_8 = view = None
    to_13 = mul_8.to(torch.bfloat16);  mul_8 = None
    renew = mvc_passes_frozen_freeze_renew(to_13, old_to_13);  to_13 = old_to_13 = None
    to_14 = add_17.to(torch.bfloat16);  add_17 = None
    renew_1 = mvc_passes_frozen_freeze_renew(to_14, old_to_14);  to_14 = old_to_14 = None
    to_15 = l_self_modules_patch_embed_modules_conv_down_modules_3_parameters_weight_.to(torch.float32);  l_self_modules_patch_embed_modules_conv_down_modules_3_parameters_weight_ = None
    to_16 = l_self_modules_patch_embed_modules_conv_down_modules_4_buffers_running_mean_.to(torch.float32);  l_self_modules_patch_embed_modules_conv_down_modules_4_buffers_running_mean_ = None
    to_17 = l_self_modules_patch_embed_modules_conv_down_modules_4_buffers_running_var_.to(torch.float32);  l_self_modules_patch_embed_modules_conv_down_modules_4_buffers_running_var_ = None
    to_18 = l_self_modules_patch_embed_modules_conv_down_modules_4_parameters_weight_.to(torch.float32);  l_self_modules_patch_embed_modules_conv_down_modules_4_parameters_weight_ = None
    to_19 = l_self_modules_patch_embed_modules_conv_down_modules_4_parameters_bias_.to(torch.float32);  l_self_modules_patch_embed_modules_conv_down_modules_4_parameters_bias_ = None
    add_18 = torch.add(to_17, 0.0001);  to_17 = None
    rsqrt_1 = torch.rsqrt(add_18);  add_18 = None
    mul_9 = torch.mul(rsqrt_1, to_18);  rsqrt_1 = to_18 = None
    neg_3 = torch.neg(to_16);  to_16 = None
    mul_10 = torch.mul(neg_3, mul_9);  neg_3 = None
    add_19 = torch.add(mul_10, to_19);  mul_10 = to_19 = None
    view_1 = mul_9.view((-1, 1, 1, 1));  mul_9 = None
    mul_11 = torch.mul(to_15, view_1);  to_15 = view_1 = None
    to_20 = mul_11.to(torch.bfloat16);  mul_11 = None
    renew_2 = mvc_passes_frozen_freeze_renew(to_20, old_to_20);  to_20 = old_to_20 = None
    to_21 = add_19.to(torch.bfloat16);  add_19 = None
    renew_3 = mvc_passes_frozen_freeze_renew(to_21, old_to_21);  to_21 = old_to_21 = None
    to_22 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv1_parameters_weight_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv1_parameters_weight_ = None
    to_23 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv1_parameters_bias_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv1_parameters_bias_ = None
    to_24 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_buffers_running_mean_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_buffers_running_mean_ = None
    to_25 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_buffers_running_var_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_buffers_running_var_ = None
    to_26 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_parameters_weight_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_parameters_weight_ = None
    to_27 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_parameters_bias_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm1_parameters_bias_ = None
    add_20 = torch.add(to_25, 1e-05);  to_25 = None
    rsqrt_2 = torch.rsqrt(add_20);  add_20 = None
    mul_12 = torch.mul(rsqrt_2, to_26);  rsqrt_2 = to_26 = None
    sub = torch.sub(to_23, to_24);  to_23 = to_24 = None
    mul_13 = torch.mul(sub, mul_12);  sub = None
    add_21 = torch.add(mul_13, to_27);  mul_13 = to_27 = None
    view_2 = mul_12.view((-1, 1, 1, 1));  mul_12 = None
    mul_14 = torch.mul(to_22, view_2);  to_22 = view_2 = None
    to_28 = mul_14.to(torch.bfloat16);  mul_14 = None
    renew_4 = mvc_passes_frozen_freeze_renew(to_28, old_to_28);  to_28 = old_to_28 = None
    to_29 = add_21.to(torch.bfloat16);  add_21 = None
    renew_5 = mvc_passes_frozen_freeze_renew(to_29, old_to_29);  to_29 = old_to_29 = None
    to_30 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv2_parameters_weight_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv2_parameters_weight_ = None
    to_31 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv2_parameters_bias_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_conv2_parameters_bias_ = None
    to_32 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_buffers_running_mean_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_buffers_running_mean_ = None
    to_33 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_buffers_running_var_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_buffers_running_var_ = None
    to_34 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_parameters_weight_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_parameters_weight_ = None
    to_35 = l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_parameters_bias_.to(torch.float32);  l_self_modules_levels_modules_0_modules_blocks_modules_0_modules_norm2_parameters_bias_ = None
    add_22 = torch.add(to_33, 1e-05);  to_33 = None
    rsqrt_3 = torch.rsqrt(add_22);  add_22 = None
    mul_15 = torch.mul(rsqrt_3, to_34);  rsqrt_3 = to_34 = None
    sub_1 = torch.sub(to_31, to_32);  to_31 = to_32 = None
    mul_16 = torch.mul(sub_1, mul_15);  sub_1 = None
    add_23 = torch.add(mul_16, to_35);  mul_16 = to_35 = None
    view_3 = mul_15.view((-1, 1, 1, 1));  mul_15 = None
    mul_17 = torch.mul(to_30, view_3);  to_30 = view_3 = None
    to_36 = mul_17.to(torch.bfloat16);  mul_17 = None
    renew_6 = mvc_passes_frozen_freeze_renew(to_36, old_to_36);  to_36 = old_to_36 = None
    to_37 = add_23.to(torch.bfloat16);  add_23 = None
    renew_7 = mvc_passes_frozen_freeze_renew(to_37, old_to_37);  to_37 = old_to_37 = None
    to_38 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv1_parameters_weight_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv1_parameters_weight_ = None
    to_39 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv1_parameters_bias_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv1_parameters_bias_ = None
    to_40 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_buffers_running_mean_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_buffers_running_mean_ = None
    to_41 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_buffers_running_var_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_buffers_running_var_ = None
    to_42 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_parameters_weight_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_parameters_weight_ = None
    to_43 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_parameters_bias_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm1_parameters_bias_ = None
    add_24 = torch.add(to_41, 1e-05);  to_41 = None
    rsqrt_4 = torch.rsqrt(add_24);  add_24 = None
    mul_18 = torch.mul(rsqrt_4, to_42);  rsqrt_4 = to_42 = None
    sub_2 = torch.sub(to_39, to_40);  to_39 = to_40 = None
    mul_19 = torch.mul(sub_2, mul_18);  sub_2 = None
    add_25 = torch.add(mul_19, to_43);  mul_19 = to_43 = None
    view_4 = mul_18.view((-1, 1, 1, 1));  mul_18 = None
    mul_20 = torch.mul(to_38, view_4);  to_38 = view_4 = None
    to_44 = mul_20.to(torch.bfloat16);  mul_20 = None
    renew_8 = mvc_passes_frozen_freeze_renew(to_44, old_to_44);  to_44 = old_to_44 = None
    to_45 = add_25.to(torch.bfloat16);  add_25 = None
    renew_9 = mvc_passes_frozen_freeze_renew(to_45, old_to_45);  to_45 = old_to_45 = None
    to_46 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv2_parameters_weight_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv2_parameters_weight_ = None
    to_47 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv2_parameters_bias_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_conv2_parameters_bias_ = None
    to_48 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_buffers_running_mean_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_buffers_running_mean_ = None
    to_49 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_buffers_running_var_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_buffers_running_var_ = None
    to_50 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_parameters_weight_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_parameters_weight_ = None
    to_51 = l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_parameters_bias_.to(torch.float32);  l_self_modules_levels_modules_1_modules_blocks_modules_0_modules_norm2_parameters_bias_ = None
    add_26 = torch.add(to_49, 1e-05);  to_49 = None
    rsqrt_5 = torch.rsqrt(add_26);  add_26 = None
    mul_21 = torch.mul(rsqrt_5, to_50);  rsqrt_5 = to_50 = None
    sub_3 = torch.sub(to_47, to_48);  to_47 = to_48 = None
    mul_22 = torch.mul(sub_3, mul_21);  sub_3 = None
    add_27 = torch.add(mul_22, to_51);  mul_22 = to_51 = None
    view_5 = mul_21.view((-1, 1, 1, 1));  mul_21 = None
    mul_23 = torch.mul(to_46, view_5);  to_46 = view_5 = None
    to_52 = mul_23.to(torch.bfloat16);  mul_23 = None
    renew_10 = mvc_passes_frozen_freeze_renew(to_52, old_to_52);  to_52 = old_to_52 = None
    to_53 = add_27.to(torch.bfloat16);  add_27 = None
    renew_11 = mvc_passes_frozen_freeze_renew(to_53, old_to_53);  to_53 = old_to_53 = None
    cat_2 = torch.cat([l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_conv1d_x_parameters_weight_, l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_conv1d_z_parameters_weight_]);  l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_conv1d_x_parameters_weight_ = l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_conv1d_z_parameters_weight_ = None
    to_3 = cat_2.to(torch.float32);  cat_2 = None
    renew_12 = mvc_passes_frozen_freeze_renew(to_3, old_to_3);  to_3 = old_to_3 = None
    getitem_42 = l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_[slice(0, 4, None)]
    double = l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_weight_.double();  l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_weight_ = None
    double_1 = getitem_42.double();  getitem_42 = None
    matmul = torch.matmul(double, double_1);  double = double_1 = None
    to_54 = matmul.to(torch.bfloat16);  matmul = None
    getitem_43 = l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_[slice(4, 12, None)]
    getitem_44 = l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_[slice(12, 20, None)];  l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_ = None
    cat_4 = torch.cat([to_54, getitem_43, getitem_44]);  to_54 = getitem_43 = getitem_44 = None
    renew_13 = mvc_passes_frozen_freeze_renew(cat_4, old_cat_4);  cat_4 = old_cat_4 = None
    float_1 = l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_parameters_a_log_.float();  l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_parameters_a_log_ = None
    exp = torch.exp(float_1);  float_1 = None
    value_1 = -exp;  exp = None
    renew_14 = mvc_passes_frozen_freeze_renew(value_1, old_value_1);  value_1 = old_value_1 = None
    value_3 = l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_.float()
    to = l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_.to(torch.float32);  l_self_modules_levels_modules_2_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_ = None
    add_10 = torch.add(value_3, to);  value_3 = to = None
    renew_15 = mvc_passes_frozen_freeze_renew(add_10, old_add_10);  add_10 = old_add_10 = None
    cat_3 = torch.cat([l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_conv1d_x_parameters_weight_, l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_conv1d_z_parameters_weight_]);  l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_conv1d_x_parameters_weight_ = l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_conv1d_z_parameters_weight_ = None
    to_6 = cat_3.to(torch.float32);  cat_3 = None
    renew_16 = mvc_passes_frozen_freeze_renew(to_6, old_to_6);  to_6 = old_to_6 = None
    getitem_45 = l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_[slice(0, 8, None)]
    double_2 = l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_weight_.double();  l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_weight_ = None
    double_3 = getitem_45.double();  getitem_45 = None
    matmul_1 = torch.matmul(double_2, double_3);  double_2 = double_3 = None
    to_55 = matmul_1.to(torch.bfloat16);  matmul_1 = None
    getitem_46 = l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_[slice(8, 16, None)]
    getitem_47 = l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_[slice(16, 24, None)];  l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_x_proj_parameters_weight_ = None
    cat_5 = torch.cat([to_55, getitem_46, getitem_47]);  to_55 = getitem_46 = getitem_47 = None
    renew_17 = mvc_passes_frozen_freeze_renew(cat_5, old_cat_5);  cat_5 = old_cat_5 = None
    float_4 = l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_parameters_a_log_.float();  l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_parameters_a_log_ = None
    exp_1 = torch.exp(float_4);  float_4 = None
    value_5 = -exp_1;  exp_1 = None
    renew_18 = mvc_passes_frozen_freeze_renew(value_5, old_value_5);  value_5 = old_value_5 = None
    value_7 = l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_.float()
    to_1 = l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_.to(torch.float32);  l_self_modules_levels_modules_3_modules_blocks_modules_0_modules_mixer_modules_dt_proj_parameters_bias_ = None
    add_11 = torch.add(value_7, to_1);  value_7 = to_1 = None
    renew_19 = mvc_passes_frozen_freeze_renew(add_11, old_add_11);  add_11 = old_add_11 = None
    return (renew, renew_1, renew_2, renew_3, renew_4, renew_5, renew_6, renew_7, renew_8, renew_9, renew_10, renew_11, renew_12, renew_13, renew_14, renew_15, renew_16, renew_17, renew_18, renew_19)
