use super::lanes::Lanes;
use super::*;

fn noise(n: usize) -> Vec<f32> {
    let mut s = 0x2545_f491_4f6c_dd1du64;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// The four-register sum is the one-register sum bit for bit: a column's result does not depend on its group.
fn sums_agree<S: Lanes>() {
    let x = noise(S::N * 4);
    // SAFETY: the callers have checked the instruction set; each register has N elements behind it.
    let (four, one) = unsafe {
        let v: [S::V; 4] = std::array::from_fn(|i| S::load(x.as_ptr().add(i * S::N)));
        (S::sum4(v), v.map(|v| S::sum(v)))
    };
    assert_eq!(four.map(f32::to_bits), one.map(f32::to_bits));
    for (i, s) in four.into_iter().enumerate() {
        let exact: f64 = x[i * S::N..(i + 1) * S::N].iter().map(|&x| f64::from(x)).sum();
        assert!((f64::from(s) - exact).abs() < 1e-5);
    }
    for n in 0..S::N {
        // SAFETY: as above; `n` elements are asked for and `n` written.
        let (sum, mut out) = unsafe {
            let v = S::load_part(x.as_ptr(), n, 0.0);
            let mut out = vec![9.0f32; n + 1];
            S::store_part(out.as_mut_ptr(), n, v);
            (S::sum(v), out)
        };
        assert_eq!(out.pop(), Some(9.0));
        assert_eq!(out, x[..n]);
        assert!((sum - out.iter().sum::<f32>()).abs() < 1e-5);
    }
}

/// Widening is exact for every 16-bit pattern.
fn widening_is_exact<S: Lanes>() {
    let mut out = [0f32; 16];
    for base in (0..=u16::MAX).step_by(S::N) {
        let h: Vec<f16> = (0..S::N as u16).map(|i| f16::from_bits(base + i)).collect();
        let b: Vec<bf16> = (0..S::N as u16).map(|i| bf16::from_bits(base + i)).collect();
        // SAFETY: the callers have checked the instruction set; N elements are there.
        unsafe { S::store(out.as_mut_ptr(), S::load_f16(h.as_ptr())) };
        for (o, h) in out.iter().zip(&h) {
            assert!(o.to_bits() == h.to_f32().to_bits() || (o.is_nan() && h.is_nan()), "{h:?} became {o}");
        }
        // SAFETY: as above.
        unsafe { S::store(out.as_mut_ptr(), S::load_bf16(b.as_ptr())) };
        for (o, b) in out.iter().zip(&b) {
            assert!(o.to_bits() == b.to_f32().to_bits() || (o.is_nan() && b.is_nan()), "{b:?} became {o}");
        }
    }
}

#[test]
fn lanes_do_what_they_say() {
    #[cfg(target_arch = "x86_64")]
    {
        if Isa::Avx2.is_supported_here() {
            sums_agree::<avx2::Avx2>();
            widening_is_exact::<avx2::Avx2>();
        }
        if Isa::Avx512.is_supported_here() {
            sums_agree::<avx512::Avx512>();
            widening_is_exact::<avx512::Avx512>();
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        assert!(Isa::Neon.is_supported_here());
        sums_agree::<neon::Neon>();
        widening_is_exact::<neon::Neon>();
    }
    assert!(Isa::Scalar.is_supported_here());
}

fn ulps(a: f32, exact: f64) -> f64 {
    let near = exact as f32;
    let step = (f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near)).abs();
    (f64::from(a) - exact).abs() / step
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    for isa in Isa::ALL.into_iter().filter(|i| i.is_supported_here()) {
        let k = Kernels::of(isa);
        let x: Vec<f32> = (0..400_003).map(|i| -103.9 + i as f32 * 4.815e-4).collect();
        let mut y = x.clone();
        k.exp_in_place(&mut y);
        let worst = x
            .iter()
            .zip(&y)
            .filter(|(x, _)| **x < 88.7)
            .map(|(&x, &y)| ulps(y, f64::from(x).exp()))
            .fold(0.0, f64::max);
        assert!(worst < 2.0, "{isa}: {worst} ulp");
        let mut special =
            [f32::NEG_INFINITY, -200.0, 0.0, -0.0, 88.8, 1e30, f32::INFINITY, f32::NAN, 1.0, 88.72, -104.0];
        k.exp_in_place(&mut special);
        assert_eq!(special[..7], [0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY], "{isa}");
        assert!(special[7].is_nan() && special[9].is_finite(), "{isa}");
    }
}

#[test]
fn softmax_parts_handle_tails_and_infinities() {
    for isa in Isa::ALL.into_iter().filter(|i| i.is_supported_here()) {
        let k = Kernels::of(isa);
        for n in 0..70 {
            let mut x = noise(n);
            assert_eq!(k.row_max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max), "{isa} {n}");
            let expected: f64 = x.iter().map(|&x| f64::from(x - 0.5).exp()).sum();
            let sum = k.exp_sub_sum(&mut x, 0.5);
            assert!((f64::from(sum) - expected).abs() <= 1e-5 * expected, "{isa} {n}");
        }
        let mut masked = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
        assert_eq!(k.exp_sub_sum(&mut masked, 1.0), 1.0);
        assert_eq!(masked, [0.0, 1.0, 0.0]);
        let mut nan = [f32::NAN; 3];
        assert!(k.exp_sub_sum(&mut nan, 0.0).is_nan());
    }
}

#[test]
fn the_table_lists_every_variant_and_one_choice_an_operator() {
    let list = kernels();
    for op in
        ["x·wᵀ, w f32", "x·wᵀ, w f16", "x·wᵀ, w bf16", "a·b, b f32", "a·b, b f16", "a·b, b bf16", "exp", "functions"]
    {
        let of_op: Vec<_> = list.iter().filter(|k| k.op == op).collect();
        assert!(of_op.iter().any(|k| k.isa == Isa::Scalar), "{op}");
        assert_eq!(of_op.iter().filter(|k| k.chosen_here).count(), 1, "{op}");
        assert!(of_op.iter().all(|k| !k.chosen_here || Kernels::best().isa.includes(k.isa)), "{op}");
    }
    for isa in Isa::ALL {
        assert_eq!(isa.name().parse::<Isa>(), Ok(isa));
    }
    assert!("sse".parse::<Isa>().is_err());
}

#[test]
fn functions_agree_with_the_scalar_ones() {
    use Function::*;
    let mut x: Vec<f32> = (0..80_021).map(|i| (i as f32 - 40_000.0) * 2.51e-4).collect();
    x.extend((0..2000).map(|i| (i as f32 - 1000.0) * 0.11));
    x.extend((0..149).flat_map(|e| [1.0, -1.37].map(|s| s * 2f32.powi(-e))));
    for isa in Isa::ALL.into_iter().filter(|i| i.is_supported_here()) {
        let k = Kernels::of(isa);
        for f in [Exp, Sigmoid, Silu, Tanh, Gelu, GeluTanh] {
            let (mut got, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            k.map(f, &x, &mut got);
            Kernels::of(Isa::Scalar).map(f, &x, &mut want);
            for ((x, got), want) in x.iter().zip(&got).zip(&want) {
                // The tail of the approximate formula is what 1 + tanh leaves of it.
                let abs = if f == GeluTanh { 4e-7 * x.abs() } else { 1e-43 };
                let close = got == want || (got - want).abs() <= 8e-6 * want.abs() + abs;
                assert!(close, "{isa} {f:?} of {x:e}: {got:e}, expected {want:e}");
            }
            // What an element becomes does not depend on its place in the row.
            for n in [1, 7, 15, 17, 33] {
                let mut part = vec![0.0; n];
                k.map(f, &x[3..3 + n], &mut part);
                assert_eq!(part, got[3..3 + n], "{isa} {f:?} {n}");
            }
            let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30, -1e30, 1e-40, -1e-40, f32::MAX];
            let (mut got, mut want) = ([0.0; 10], [0.0; 10]);
            k.map(f, &special, &mut got);
            Kernels::of(Isa::Scalar).map(f, &special, &mut want);
            for ((x, g), w) in special.iter().zip(got).zip(want) {
                assert!(g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan()), "{isa} {f:?} of {x:e}: {g:e}, {w:e}");
            }
        }
    }
}
