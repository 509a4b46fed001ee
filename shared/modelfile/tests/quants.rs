//! Every block format against values computed by ggml's own Python package.

use modelfile::{DType, TensorData};

#[test]
fn block_formats_give_the_reference_values() {
    let cases: serde_json::Value =
        serde_json::from_str(include_str!("data/quants.json")).expect("the data is JSON");
    let mut seen = Vec::new();
    for case in cases.as_array().expect("a list of cases") {
        let name = case["dtype"].as_str().expect("a name");
        let dtype = match name {
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            "Q8_0" => DType::Q8_0,
            "Q4_0" => DType::Q4_0,
            "Q4_1" => DType::Q4_1,
            "Q4_K" => DType::Q4_K,
            "Q6_K" => DType::Q6_K,
            other => panic!("unknown format {other}"),
        };
        let hex = case["bytes"].as_str().expect("hex");
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex digits"))
            .collect();
        let wanted: Vec<f32> = case["values"]
            .as_array()
            .expect("values")
            .iter()
            .map(|v| v.as_f64().expect("a number") as f32)
            .collect();

        let got = TensorData { dtype, shape: vec![wanted.len()], bytes }.to_f32();

        assert_eq!(got.len(), wanted.len(), "{name}");
        for (index, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            let tolerance = 1e-6 * wanted.abs().max(1e-3);
            assert!((got - wanted).abs() <= tolerance, "{name}[{index}]: {got}, not {wanted}");
        }
        seen.push(name.to_owned());
    }
    assert_eq!(seen.len(), 7, "{seen:?}");
}
