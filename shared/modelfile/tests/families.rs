//! Every family from both formats, and what its files may not ask for.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use modelfile::write::{self, Value};
use modelfile::{DType, Family, ModelFile, ModelSpec, RopePairs, TensorData};
use std::path::Path;
use tinymodel::{TinyModel, TinyRope};

const FAMILIES: [Family; 4] = [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3];

/// Opens a model whose `config.json` has `changes`; a change to `null` takes the key away.
fn config_spec(tiny: &TinyModel, changes: serde_json::Value) -> Result<ModelSpec, String> {
    let directory = tempfile::tempdir().unwrap();
    tiny.write_safetensors(directory.path()).unwrap();
    let mut config = tiny.config();
    for (key, value) in changes.as_object().unwrap() {
        match value.as_str() {
            Some("absent") => drop(config.as_object_mut().unwrap().remove(key)),
            _ => config[key] = value.clone(),
        }
    }
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let file = ModelFile::open(directory.path()).map_err(|error| error.to_string())?;
    Ok(file.spec().clone())
}

/// Opens a GGUF file with other metadata and tensors.
fn gguf_spec(
    tiny: &TinyModel,
    metadata: &[(&str, Value)],
    tensors: &[(&str, &[usize])],
) -> Result<ModelSpec, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    let mut all = tiny.metadata();
    for (key, value) in metadata {
        all.retain(|(name, _)| name != key);
        all.push(((*key).to_owned(), value.clone()));
    }
    let mut stored = tiny.gguf_tensors();
    for (name, shape) in tensors {
        let values = vec![0.5; shape.iter().product()];
        stored.push(((*name).to_owned(), TensorData::from_f32(shape, &values)));
    }
    std::fs::write(&path, write::gguf(&all, &stored)).unwrap();
    let file = ModelFile::open(&path).map_err(|error| error.to_string())?;
    Ok(file.spec().clone())
}

#[test]
fn both_formats_describe_the_same_model_of_every_family() {
    for family in FAMILIES {
        let directory = tempfile::tempdir().unwrap();
        let tiny = TinyModel::of(family);
        let gguf = tiny.write_gguf(&directory.path().join("tiny.gguf")).unwrap();
        let config = tiny.write_safetensors(directory.path()).unwrap();
        let (mut from_gguf, from_config) = (gguf.spec().clone(), config.spec());

        let pairs = match family {
            Family::Llama | Family::Mistral => RopePairs::Interleaved,
            Family::Qwen2 | Family::Qwen3 => RopePairs::Halves,
        };
        assert_eq!(from_gguf.rope_pairs, pairs);
        from_gguf.rope_pairs = RopePairs::Halves;
        let factors = from_gguf.rope_factors.take().unwrap_or_default();
        from_gguf.rope_factors = from_config.rope_factors.clone();
        assert_eq!(&from_gguf, from_config, "{family}");
        // One is what the file says, the other computed from the same limits in another way.
        let expected = from_config.rope_factors.clone().unwrap_or_default();
        assert_eq!(factors.len(), expected.len());
        assert!(factors.iter().zip(&expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-5));

        assert_eq!(from_config.family, family);
        assert_eq!(from_config.family.to_string(), family.name());
        assert_eq!(from_config.qkv_bias, family == Family::Qwen2);
        assert_eq!(from_config.head_norms, family == Family::Qwen3);
        assert_eq!(from_config.window, tiny.window);
        for (name, tensor) in tiny.tensors() {
            assert_eq!(config.tensor(&name).unwrap(), tensor, "{name}");
            assert_eq!(gguf.layout(&name).unwrap(), (tensor.dtype, tensor.shape.as_slice()));
        }
        let text = "the 12 cats don't Stop\n\n and e\u{301}";
        let ids = gguf.tokenizer().unwrap().encode(text, true).unwrap();
        assert_eq!(config.tokenizer().unwrap().encode(text, true).unwrap(), ids, "{family}");
    }
}

#[test]
fn llama_3_divides_slow_frequencies_and_leaves_fast_ones() {
    let tiny = TinyModel::of(Family::Llama);
    let TinyRope::Llama3 { factor, .. } = tiny.rope else { panic!("Llama 3 style") };
    let spec = gguf_spec(&tiny, &[], &[]).unwrap();
    let factors = spec.rope_factors.unwrap();
    // One turn takes 2 pi tokens for the first pair, and over 10,000 for the last: the 64 of the
    // first training are many turns for one and hardly any for the other.
    assert_eq!((factors[0], factors[7]), (1.0, factor));
    assert!(factors.windows(2).all(|pair| pair[0] <= pair[1]), "{factors:?}");
    assert!(factors.iter().any(|&each| each > 1.0 && each < factor), "{factors:?}");
}

#[test]
fn linear_scaling_divides_every_frequency() {
    let tiny = TinyModel { rope: TinyRope::Linear(4.0), ..TinyModel::default() };
    let eight = Some(vec![4.0; 8]);
    assert_eq!(gguf_spec(&tiny, &[], &[]).unwrap().rope_factors, eight);
    assert_eq!(config_spec(&tiny, serde_json::json!({})).unwrap().rope_factors, eight);
    let plain = TinyModel::default();
    // A factor without a type is a linear one, and older files had another key for it.
    for key in ["llama.rope.scaling.factor", "llama.rope.scale_linear"] {
        let spec = gguf_spec(&plain, &[(key, Value::Float(4.0))], &[]).unwrap();
        assert_eq!(spec.rope_factors, eight, "{key}");
    }
    let parameters = serde_json::json!({
        "rope_theta": "absent",
        "rope_parameters": { "rope_type": "linear", "factor": 4.0, "rope_theta": 5e5 },
    });
    let spec = config_spec(&plain, parameters).unwrap();
    assert_eq!((spec.rope_factors, spec.rope_theta), (eight, 5e5));
}

#[test]
fn windows_are_read_as_each_family_says_them() {
    let window = |tiny: &TinyModel, changes| config_spec(tiny, changes).map(|spec| spec.window);
    let mistral = TinyModel::of(Family::Mistral);
    let long = TinyModel { context_tokens: 10_000, ..mistral.clone() };
    assert_eq!(window(&mistral, serde_json::json!({})), Ok(Some(20)));
    assert_eq!(window(&mistral, serde_json::json!({ "sliding_window": null })), Ok(None));
    assert_eq!(window(&long, serde_json::json!({ "sliding_window": "absent" })), Ok(Some(4096)));
    // A window that holds the whole context never matters.
    assert_eq!(window(&mistral, serde_json::json!({ "sliding_window": "absent" })), Ok(None));
    assert_eq!(window(&mistral, serde_json::json!({ "sliding_window": 512 })), Ok(None));

    for family in [Family::Qwen2, Family::Qwen3] {
        let tiny = TinyModel { window: Some(30), ..TinyModel::of(family) };
        assert_eq!(window(&tiny, serde_json::json!({})), Ok(Some(30)));
        let off = serde_json::json!({ "use_sliding_window": false });
        assert_eq!(window(&tiny, off), Ok(None));
        assert_eq!(window(&tiny, serde_json::json!({ "max_window_layers": 2 })), Ok(None));
        assert_eq!(window(&tiny, serde_json::json!({ "max_window_layers": "absent" })), Ok(None));
        let some = window(&tiny, serde_json::json!({ "max_window_layers": 1 })).unwrap_err();
        assert!(some.contains("sliding window in 1 of 2 layers"), "{some}");
        let kinds = ["full_attention", "sliding_attention"];
        let some = window(&tiny, serde_json::json!({ "layer_types": kinds })).unwrap_err();
        assert!(some.contains("sliding window in 1 of 2 layers"), "{some}");
        let key = format!("{family}.attention.sliding_window");
        let spec = gguf_spec(&TinyModel::of(family), &[(&key, Value::Int(30))], &[]).unwrap();
        assert_eq!(spec.window, Some(30));
    }
    let llama = config_spec(&TinyModel::default(), serde_json::json!({ "sliding_window": 7 }));
    assert_eq!(llama.unwrap().window, None);
}

#[test]
fn what_the_layers_do_not_compute_is_refused_by_name() {
    let refused = |tiny: &TinyModel, tensor: &str, shape: &[usize]| {
        let error = gguf_spec(tiny, &[], &[(tensor, shape)]).unwrap_err();
        assert!(error.contains("not supported") && error.contains(tensor), "{error}");
    };
    refused(&TinyModel::default(), "blk.0.attn_q.bias", &[64]);
    refused(&TinyModel::default(), "blk.1.attn_output.bias", &[64]);
    refused(&TinyModel::default(), "blk.0.attn_q_norm.weight", &[16]);
    refused(&TinyModel::default(), "blk.2.attn_norm.weight", &[64]);
    refused(&TinyModel::default(), "output.bias", &[3]);
    refused(&TinyModel::of(Family::Qwen2), "blk.0.attn_output.bias", &[64]);
    refused(&TinyModel::of(Family::Qwen3), "blk.0.attn_k.bias", &[32]);
    refused(&TinyModel::of(Family::Qwen3), "blk.0.ffn_gate_exps.weight", &[2, 2]);

    let config =
        |family: Family, changes| config_spec(&TinyModel::of(family), changes).unwrap_err();
    let bias = config(Family::Qwen3, serde_json::json!({ "attention_bias": true }));
    assert!(bias.contains("attention_bias"), "{bias}");
    let act = config(Family::Mistral, serde_json::json!({ "hidden_act": "gelu" }));
    assert!(act.contains("gelu"), "{act}");
    let yarn = serde_json::json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0 } });
    let yarn = config(Family::Qwen2, yarn);
    assert!(yarn.contains("\"yarn\"; known are none, linear and llama3"), "{yarn}");
    let rope = serde_json::json!({ "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    } });
    let rope = config(Family::Llama, rope);
    assert!(rope.contains("rope_scaling.high_freq_factor: is 4, not above"), "{rope}");
    let partial = config(Family::Llama, serde_json::json!({ "partial_rotary_factor": 0.5 }));
    assert!(partial.contains("partial_rotary_factor 0.5"), "{partial}");
    let packed = serde_json::json!({ "quantization_config": { "quant_method": "gptq" } });
    assert!(config(Family::Llama, packed).contains("gptq"));
    let heads = config(Family::Qwen2, serde_json::json!({ "num_key_value_heads": "absent" }));
    assert!(heads.contains("num_key_value_heads: is missing"), "{heads}");
    let other = config(Family::Llama, serde_json::json!({ "model_type": "gemma3" }));
    assert!(other.contains("\"gemma3\"; known are llama, mistral, qwen2, qwen3"), "{other}");

    let metadata = |key: &str, value: Value| {
        let error = gguf_spec(&TinyModel::default(), &[(key, value)], &[]).unwrap_err();
        assert!(error.contains("not supported"), "{error}");
        error
    };
    assert!(metadata("llama.attention.scale", Value::Float(0.1)).contains("attention.scale"));
    assert!(metadata("llama.attention.value_length", Value::Int(8)).contains("value_length 8"));
    assert!(metadata("llama.rope.dimension_count", Value::Int(8)).contains("dimension_count 8"));
    assert!(metadata("llama.expert_count", Value::Int(8)).contains("mixture of experts"));
    gguf_spec(&TinyModel::default(), &[("llama.expert_count", Value::Int(0))], &[]).unwrap();
}

#[test]
fn a_family_needs_its_own_tensors() {
    for (family, needed) in
        [(Family::Qwen2, "blk.1.attn_v.bias"), (Family::Qwen3, "blk.0.attn_k_norm.weight")]
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tiny.gguf");
        let tiny = TinyModel::of(family);
        let mut tensors = tiny.gguf_tensors();
        tensors.retain(|(name, _)| name != needed);
        std::fs::write(&path, write::gguf(&tiny.metadata(), &tensors)).unwrap();
        let error = ModelFile::open(&path).unwrap_err().to_string();
        assert_eq!(error, format!("tensor {needed}: is missing"));
    }
}

#[test]
fn rows_are_read_into_a_reused_buffer_from_every_block_format() {
    let formats =
        [DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::Q4_K, DType::Q6_K, DType::F16, DType::BF16];
    let mut buffer = TensorData::empty();
    for dtype in formats {
        let directory = tempfile::tempdir().unwrap();
        let tiny =
            TinyModel { hidden: 256, heads: 16, ffn: 256, matrices: dtype, ..TinyModel::default() };
        let file = tiny.write_gguf(&directory.path().join("tiny.gguf")).unwrap();
        let whole = file.tensor("token_embd.weight").unwrap();
        assert_eq!(whole.dtype, dtype);
        for rows in [0..1, 3..20, 266..267, 0..267] {
            file.rows_into("token_embd.weight", rows.clone(), &mut buffer).unwrap();
            assert_eq!(buffer.shape, [rows.len(), 256]);
            let row_bytes = whole.bytes.len() / 267;
            assert_eq!(buffer.bytes, whole.bytes[rows.start * row_bytes..rows.end * row_bytes]);
        }
        file.tensor_into("token_embd.weight", &mut buffer).unwrap();
        assert_eq!(buffer, whole);
        for rows in [267..268, 5..5, 0..usize::MAX] {
            let error = file.rows_into("token_embd.weight", rows, &mut buffer).unwrap_err();
            assert!(error.to_string().contains("only 267"), "{error}");
        }
    }
}

#[test]
fn a_directory_with_a_whole_file_and_others_uses_the_whole() {
    let directory = tempfile::tempdir().unwrap();
    let tiny = TinyModel::default();
    tiny.write_safetensors(directory.path()).unwrap();
    let other = directory.path().join("consolidated.safetensors");
    std::fs::copy(directory.path().join("model.safetensors"), &other).unwrap();
    let file = ModelFile::open(directory.path()).unwrap();
    assert_eq!(file.tensor("blk.0.ffn_up.weight").unwrap().shape, [96, 64]);
    // A file that is named is the one that is used.
    std::fs::remove_file(directory.path().join("model.safetensors")).unwrap();
    assert!(ModelFile::open(Path::new(&other)).is_ok());
}
