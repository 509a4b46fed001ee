//! Pages on their way out and in, and how they lie.

use crate::random::Random;
use crate::target::Target;
use half::f16;
use model::ops::{Attention, KvShape, ServeOps, Span, Step};

pub(crate) fn pages_leave_and_enter_bit_by_bit<O: ServeOps>(target: &mut Target<O>) {
    let mut random = Random(51);
    for _ in 0..6 {
        let shape = KvShape {
            layers: random.between(1, 4),
            kv_heads: random.between(1, 3),
            head_dim: 2 * random.between(1, 40),
            pages: random.between(2, 9),
        };
        let mut kv = target.ops.kv(shape).unwrap();
        let mut zeros = vec![1; shape.block_bytes()];
        target.ops.export(&kv, 1, &mut zeros).unwrap();
        assert!(zeros.iter().all(|&byte| byte == 0), "{}: a new pool is not zero", target.name);
        // Any bits but those that are no numbers, in buffers that begin at an odd address.
        let pages: Vec<Vec<u8>> = (0..shape.pages)
            .map(|_| {
                let bits = (0..shape.block_bytes() / 2).map(|_| random.below(1 << 16) as u16);
                let finite = bits.map(|bits| if bits & 0x7c00 == 0x7c00 { 0 } else { bits });
                [0].into_iter().chain(finite.flat_map(u16::to_le_bytes)).collect()
            })
            .collect();
        for (page, bytes) in pages.iter().enumerate().rev() {
            target.ops.import(&mut kv, page as u32, &bytes[1..]).unwrap();
        }
        for (page, bytes) in (0..).zip(&pages) {
            let mut out = vec![0; shape.block_bytes() + 1];
            target.ops.export(&kv, page, &mut out[1..]).unwrap();
            assert!(out[1..] == bytes[1..], "{}: {shape:?} page {page} differs", target.name);
        }
    }
}

pub(crate) fn keys_and_values_lie_where_the_layout_says<O: ServeOps>(target: &mut Target<O>) {
    let (heads, kv_heads, head_dim) = (4, 2, 8);
    let shape = KvShape { layers: 3, kv_heads, head_dim, pages: 3 };
    let mut kv = target.ops.kv(shape).unwrap();
    // Frequencies of zero turn nothing; every number of keys and values occurs once.
    let frequencies = [0.0; 4];
    let mut step = Step { tokens: vec![0], positions: vec![21], ..Step::default() };
    step.pages.extend([0, 2]);
    step.spans.push(Span { rows: 0..1, position: 21, pages: 0..2 });
    target.ops.begin(&step, &frequencies).unwrap();
    let qkv: Vec<f32> = (1..=(heads + 2 * kv_heads) * head_dim).map(|value| value as f32).collect();
    let buffer = target.filled(qkv.len(), &qkv);
    let mut out = target.ops.buffer();
    let attention = Attention {
        layer: 1,
        heads,
        kv_heads,
        head_dim,
        scale: 1.0,
        frequencies: &frequencies,
        head_norms: None,
        window: None,
    };
    target.ops.attend(&step, &buffer, &attention, &mut kv, &mut out);
    target.ops.read(&out);

    let (half, token) = (kv_heads * head_dim * 16, 21 % 16);
    let mut wanted = vec![0f32; shape.block_bytes() / 2];
    for head in 0..kv_heads {
        for element in 0..head_dim {
            let key = 2 * half + (head * head_dim + element) * 16 + token;
            wanted[key] = qkv[(heads + head) * head_dim + element];
            let value = 3 * half + (head * 16 + token) * head_dim + element;
            wanted[value] = qkv[(heads + kv_heads + head) * head_dim + element];
        }
    }
    for (page, is_written) in [(0, false), (1, false), (2, true)] {
        let mut bytes = vec![0; shape.block_bytes()];
        target.ops.export(&kv, page, &mut bytes).unwrap();
        let got = bytes.chunks(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32());
        let wanted = wanted.iter().map(|&value| if is_written { value } else { 0.0 });
        assert!(got.eq(wanted), "{}: page {page}", target.name);
    }
}
