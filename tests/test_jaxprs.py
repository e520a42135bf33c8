"""Every primitive that encloses others: what is captured equals an unrolled twin with probes made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.xla_metadata import set_xla_metadata

import actigrad
from actigrad.errors import CaptureError
from actigrad.reduce import Summary
from twins import Native, captured, custom, objective, reference

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(3, 4, 4)) / 2, jnp.float32)
X = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)


def layer(k, x):
    return jnp.tanh(x @ W[k])


def block(b, x, i=0):
    x = b.mark("inner", layer(0, x) + i)
    return x + b.mark("outer", layer(1, x))


def one(b, x):
    return b.mark("inner", layer(0, x))


def two(b, x):
    return b.mark("outer", layer(1, x) * 2)


def three(b, x):
    return b.mark("third", layer(2, x))


PROGRAMS = {
    "straight": block,
    "jit": lambda b, x: b.jit(block, x),
    "jit in jit": lambda b, x: b.jit(lambda b, x: b.jit(block, b.mark("middle", x * 2)), x),
    "scan": lambda b, x: b.scan(block, x, 4),
    "reverse scan": lambda b, x: b.scan(block, x, 4, reverse=True),
    "unrolled scan": lambda b, x: b.scan(block, x, 5, unroll=2),
    "scan of one": lambda b, x: b.scan(block, x, 1),
    "nested scan": lambda b, x: b.scan(lambda b, x, i: b.mark("end", b.scan(block, x, 2) * 0.5), x, 3),
    "remat": lambda b, x: b.remat(block, x),
    "remat in scan": lambda b, x: b.scan(lambda b, x, i: b.remat(block, x), x, 3),
    "scan in remat": lambda b, x: b.remat(lambda b, x: b.scan(block, x, 3), x),
    "cond taken": lambda b, x: b.cond(-1e9, one, two, x),
    "cond not taken": lambda b, x: b.cond(1e9, one, two, x),
    "cond in scan": lambda b, x: b.scan(lambda b, x, i: b.cond(0.0, one, two, x - 0.3), x, 4),
    "scan in cond": lambda b, x: b.cond(-1e9, lambda b, x: b.scan(block, x, 2), three, x),
    "remat in cond": lambda b, x: b.cond(-1e9, lambda b, x: b.remat(one, x), two, x),
    "while": lambda b, x: two(b, b.hidden_while(one, x, 3)),
    "while in scan": lambda b, x: b.scan(lambda b, x, i: two(b, b.hidden_while(one, x, 2)), x, 3),
    "scan in while": lambda b, x: two(b, b.hidden_while(lambda b, x: b.scan(lambda b, x, i: one(b, x), x, 2), x, 2)),
    "custom_jvp": lambda b, x: two(b, b.rule(one, x, "jvp")),
    "custom_vjp": lambda b, x: two(b, b.rule(one, x, "vjp")),
    "custom_vjp in scan": lambda b, x: b.scan(lambda b, x, i: two(b, b.rule(one, x, "vjp")), x, 3),
    "custom_jvp in remat": lambda b, x: b.remat(lambda b, x: two(b, b.rule(one, x, "jvp")), x),
    "vmap": lambda b, x: b.vmap(block, x),
    "scan in vmap": lambda b, x: b.vmap(lambda b, x: b.scan(block, x, 3), x),
    "vmap in scan": lambda b, x: b.scan(lambda b, x, i: b.vmap(block, x), x, 3),
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_captured_values_and_gradients_equal_those_of_the_unrolled_twin(program):
    value, activations, gradients, slope = reference(program, X)
    frame = captured(program, X)
    np.testing.assert_allclose(frame.loss, value, rtol=1e-6)
    np.testing.assert_allclose(frame.input_gradients["x"], slope, rtol=1e-5, atol=1e-7)
    assert set(frame.activations) == set(activations)
    hidden = {path for path, quantity in frame.missing if quantity == "gradient"}
    assert set(frame.gradients) == set(activations) - hidden
    for path, activation in frame.activations.items():
        np.testing.assert_allclose(activation, activations[path], rtol=1e-6, atol=5e-7, err_msg=path)
    for path, gradient in frame.gradients.items():
        np.testing.assert_allclose(gradient, gradients[path], rtol=1e-5, atol=5e-7, err_msg=path)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_with_capture_on_the_loss_and_its_gradient_are_those_without_but_for_the_rounding_of_a_compiler(program):
    # Not bit for bit: XLA compiles two programs, and chooses for each how to lay out and fuse its products. On one
    # processor every program here agrees to the bit, on another "custom_vjp in scan" differs in the last one.
    plain = jax.jit(jax.value_and_grad(lambda x: objective(program(Native(), x))))(X)
    frame = captured(program, X)
    for ours, theirs in zip((frame.loss, frame.input_gradients["x"]), plain, strict=True):
        rounding = np.finfo(np.float32).eps * np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=4 * rounding)


@pytest.mark.parametrize(
    ("program", "reason"),
    [("while", "while_loop"), ("custom_jvp", "custom_jvp_call"), ("custom_vjp", "custom_vjp_call")],
)
def test_a_gradient_that_cannot_be_had_is_listed_with_its_reason(program, reason):
    frame = captured(PROGRAMS[program], X)
    assert list(frame.missing) == [("inner", "gradient")]
    assert reason in frame.missing["inner", "gradient"]


def test_a_branch_says_which_of_its_iterations_it_was_taken_in():
    program = lambda b, x: b.scan(
        lambda b, x, i: b.cond(0.0, one, two, x * jnp.where(i == 1, -1.0, 1.0)), jnp.abs(x), 3
    )
    frame = captured(program, X)
    np.testing.assert_array_equal(frame.visited["inner"], ~np.asarray(frame.visited["outer"]))
    assert not frame.activations["inner"][~np.asarray(frame.visited["inner"])].any()


def test_a_while_loop_without_an_iteration_leaves_its_site_unvisited_and_zero():
    frame = captured(lambda b, x: two(b, b.hidden_while(one, x, 0)), X)
    assert not frame.visited["inner"]
    assert not frame.activations["inner"].any()


def test_a_switch_captures_the_branch_that_was_taken():
    def loss(params, batch):
        branches = [lambda x, k=k: actigrad.tap(x * (k + 1.0), f"branch{k}") for k in range(3)]
        return jax.lax.switch(batch["which"], branches, batch["x"]).sum()

    frame = actigrad.capture(loss)({}, {"x": X, "which": jnp.int32(2)})
    assert [bool(frame.visited[f"branch{k}"]) for k in range(3)] == [False, False, True]
    np.testing.assert_array_equal(frame.gradients["branch2"], np.ones_like(X))


def test_a_differentiated_while_loop_is_refused_with_the_way_out():
    def loss(params, batch):
        return jax.lax.while_loop(
            lambda s: jnp.sum(s) < 1e3, lambda s: actigrad.tap(s * 2, "s"), batch["x"] ** 2 + 1
        ).sum()

    with pytest.raises(CaptureError, match="gradients=False"):
        actigrad.capture(loss)({}, {"x": X})
    frame = actigrad.capture(loss, gradients=False, parameters=False, inputs=False)({}, {"x": X})
    assert frame.activations["s"].shape == X.shape


def test_a_fori_loop_with_static_bounds_is_captured_like_a_scan():
    def loss(params, batch):
        return jax.lax.fori_loop(0, 3, lambda i, x: actigrad.tap(jnp.tanh(x @ W[0]), "h"), batch["x"]).sum()

    frame = actigrad.capture(loss)({}, {"x": X})
    assert frame.activations["h"].shape == (3, *X.shape)
    assert frame.gradients["h"].shape == (3, *X.shape)


def test_a_site_in_the_condition_of_a_while_loop_is_listed_as_missing():
    def loss(params, batch):
        x = jax.lax.stop_gradient(batch["x"])
        cond = lambda s: actigrad.tap(jnp.sum(s), "total") < 1e3
        return jax.lax.while_loop(cond, lambda s: s * 2, jnp.abs(x)).sum()

    frame = actigrad.capture(loss)({}, {"x": X})
    assert set(frame.missing) == {("total", "activation"), ("total", "gradient")}
    assert "condition" in frame.missing["total", "activation"]


@pytest.mark.parametrize(
    "policy",
    ["nothing_saveable", "everything_saveable", "dots_saveable", "save_only_these_names", "save_any_names_but_these"],
)
def test_every_remat_policy_gives_the_same_values_and_stays(policy):
    make = getattr(jax.checkpoint_policies, policy)
    chosen = make("kept") if "names" in policy else make

    def body(x):
        x = checkpoint_name(jnp.tanh(x @ W[0]), "kept")
        return actigrad.tap(jnp.tanh(x @ W[1]), "site")

    loss = lambda params, batch: jax.checkpoint(body, policy=chosen)(batch["x"]).sum()
    plain = lambda params, batch: body(batch["x"]).sum()
    a, b = (actigrad.capture(f)({}, {"x": X}) for f in (loss, plain))
    assert set(a.activations) == {"kept", "site"}
    for path in a.activations:
        np.testing.assert_allclose(a.activations[path], b.activations[path], rtol=1e-6)
        np.testing.assert_allclose(a.gradients[path], b.gradients[path], rtol=1e-5)
    program = str(jax.make_jaxpr(actigrad.capture(loss))({}, {"x": X}))
    assert "remat" in program or "checkpoint" in program


def test_in_a_remat_that_the_loss_differentiates_a_site_has_no_gradient_rather_than_part_of_one():
    def frame(wrap):
        inner = wrap(lambda x: jnp.sin(actigrad.tap(jnp.tanh(x), "within")))
        energy = lambda x: inner(actigrad.tap(x * 2, "before")).sum()
        return actigrad.capture(lambda params, batch: jnp.square(jax.grad(energy)(batch["x"])).sum())({}, {"x": X})

    plain, again = frame(lambda f: f), frame(jax.checkpoint)
    assert "computed again" in again.missing["within", "gradient"]
    assert set(again.gradients) == {"before"}
    assert again.unreached == ()
    np.testing.assert_allclose(again.activations["within"], plain.activations["within"], rtol=1e-6)
    np.testing.assert_allclose(again.gradients["before"], plain.gradients["before"], rtol=1e-5)


def test_a_jitted_function_called_twice_gives_two_sites():
    inner = jax.jit(lambda x: actigrad.tap(jnp.tanh(x), "h"))
    frame = actigrad.capture(lambda params, batch: inner(inner(batch["x"]) * 2).sum())({}, {"x": X})
    np.testing.assert_allclose(frame.activations["h"], np.tanh(X), rtol=1e-6)
    np.testing.assert_allclose(frame.activations["h#1"], np.tanh(2 * np.tanh(X)), rtol=1e-6)


def test_effects_happen_as_often_as_in_the_plain_call(capfd):
    def loss(params, batch):
        def body(x, _):
            jax.debug.print("tick")
            return jax.checkpoint(lambda x: actigrad.tap(jnp.tanh(x), "h"))(x), None

        return jax.lax.scan(body, batch["x"], length=3)[0].sum()

    jax.block_until_ready(jax.jit(jax.value_and_grad(lambda x: loss({}, {"x": x})))(X))
    jax.effects_barrier()
    plain = capfd.readouterr().out.count("tick")
    jax.block_until_ready(actigrad.capture(loss)({}, {"x": X}))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("tick") == plain > 0


def test_a_site_inside_a_custom_rule_with_side_effects_is_listed_and_not_run_twice(capfd):
    def noisy(x):
        jax.debug.print("once")
        return actigrad.tap(x * 2, "h")

    loss = lambda params, batch: custom(noisy, "jvp")(batch["x"]).sum()
    frame = jax.block_until_ready(actigrad.capture(loss, parameters=False, inputs=False)({}, {"x": X}))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("once") == 1
    assert "side effects" in frame.missing["h", "activation"]


def test_linear_algebra_and_other_primitives_pass_untouched():
    def loss(params, batch):
        a = actigrad.tap(batch["x"].T @ batch["x"] + jnp.eye(4), "gram")
        return jnp.linalg.slogdet(a)[1] + jnp.linalg.solve(a, jnp.ones(4)).sum() + jnp.sort(a.ravel())[-1]

    frame = actigrad.capture(loss)({}, {"x": X})
    gram = X.T @ X + jnp.eye(4)
    after = lambda a: jnp.linalg.slogdet(a)[1] + jnp.linalg.solve(a, jnp.ones(4)).sum() + jnp.sort(a.ravel())[-1]
    np.testing.assert_allclose(frame.gradients["gram"], jax.grad(after)(gram), rtol=1e-4, atol=1e-5)


def test_shardings_asked_for_inside_are_kept():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.device_put(jnp.ones((8, 4)), sharded)
    inner = jax.jit(lambda x: actigrad.tap(jnp.tanh(x), "h"), in_shardings=sharded, out_shardings=sharded)
    frame = actigrad.capture(lambda params, batch: inner(batch["x"]).sum())({}, {"x": x})
    np.testing.assert_allclose(frame.activations["h"], np.tanh(1), rtol=1e-6)
    assert frame.gradients["h"].shape == (8, 4)
    outward = jax.jit(lambda x: actigrad.tap(jnp.tanh(x), "h"), out_shardings=sharded)
    loss = lambda params, batch: (jnp.sum(batch["x"]), outward(batch["x"]))
    assert actigrad.capture(loss)({}, {"x": jnp.ones((8, 4))}).aux.sharding.is_equivalent_to(sharded, 2)


def test_names_and_marks_for_the_compiler_are_kept():
    """A profile of the captured pass reads like one of the plain pass; `unroll` and `prevent_cse` are the user's."""

    def loss(params, batch):
        with jax.named_scope("attention"), set_xla_metadata(mark="mine"):
            x = jnp.sin(actigrad.tap(jnp.tanh(batch["x"]), "before"))
        step = jax.checkpoint(lambda x: actigrad.tap(jnp.tanh(x), "h"), prevent_cse=False)
        return jax.lax.scan(lambda x, _: (step(x), None), x, length=4, unroll=2)[0].sum()

    captured = actigrad.capture(loss)
    text = jax.jit(captured).lower({}, {"x": X}).as_text(debug_info=True)
    assert "attention" in text
    assert 'mark = "mine"' in text
    program = str(jax.make_jaxpr(captured)({}, {"x": X}))
    assert "unroll=2" in program
    assert "unroll=1" not in program
    assert "prevent_cse=False" in program
    assert "prevent_cse=True" not in program


@pytest.mark.parametrize("check", [True, False])
def test_inside_shard_map_each_shard_keeps_its_own_value_and_gradient(check):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def inside(x, w, mark):
        h = mark(jnp.tanh(x @ w), "h")
        return h * mark(jax.lax.psum(jnp.sum(h, axis=0, keepdims=True), "data"), "total")

    def loss(params, batch):
        specs = {"in_specs": (spec("data"), spec()), "out_specs": spec("data")}
        f = jax.shard_map(lambda x, w: inside(x, w, actigrad.tap), mesh=mesh, check_vma=check, **specs)
        return jnp.sum(jnp.square(f(batch["x"], params["w"])))

    def twin(h_probe, total_probe):
        h = jnp.tanh(x @ W[0]) + h_probe
        return jnp.sum(jnp.square(h * (jnp.sum(h, axis=0, keepdims=True) + total_probe)))

    x = jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32)
    frame = actigrad.capture(loss)({"w": W[0]}, {"x": x})
    h = jnp.tanh(x @ W[0])
    at_h, at_total = jax.grad(twin, argnums=(0, 1))(jnp.zeros((8, 4)), jnp.zeros((1, 4)))
    np.testing.assert_allclose(frame.activations["h"], h.reshape(4, 2, 4), rtol=1e-5)
    np.testing.assert_allclose(frame.gradients["h"], at_h.reshape(4, 2, 4), rtol=1e-5)
    if check:  # without checks every shard holds its own copy of the total, and its own share of the gradient
        np.testing.assert_allclose(frame.activations["total"], h.sum(0, keepdims=True), rtol=1e-5)
        np.testing.assert_allclose(frame.gradients["total"], at_total, rtol=1e-5)


@pytest.mark.parametrize("pattern", ["inner[2]", "inner[-1]", "inner[1:3]", "inner[::2]"])
@pytest.mark.parametrize("program", ["scan", "reverse scan", "remat in scan", "nested scan", "cond in scan"])
def test_chosen_iterations_of_a_loop_equal_those_of_all(program, pattern):
    frame, whole = captured(PROGRAMS[program], X, sites=pattern), captured(PROGRAMS[program], X)
    kept = list(frame.sites[0].picked or ())
    assert frame.activations["inner"].shape == frame.sites[0].shape
    for quantity in ("activations", "gradients"):
        some, all_ = getattr(frame, quantity)["inner"], getattr(whole, quantity)["inner"]
        np.testing.assert_allclose(some, all_[np.asarray(kept)], rtol=1e-5, atol=1e-7)
    assert frame.loss == whole.loss
    for path, visited in frame.visited.items():
        np.testing.assert_array_equal(visited, whole.visited[path][np.asarray(kept)])


def test_chosen_iterations_are_reduced_inside_the_loop_too():
    choice = Summary()
    some = captured(PROGRAMS["scan"], X, sites="inner[1:3]", reduce=choice).gradients["inner"]
    whole = captured(PROGRAMS["scan"], X, sites="inner", reduce=choice).gradients["inner"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[1:3], rtol=1e-5), some, whole)


def test_an_iteration_that_does_not_exist_is_told_with_the_length_of_the_loop():
    with pytest.raises(CaptureError, match=r"'inner\[4\]'.*4 iterations"):
        captured(PROGRAMS["scan"], X, sites="inner[4]")


def test_keeping_few_iterations_takes_less_memory_than_keeping_all():
    weights = jnp.ones((24, 64, 64)) / 64

    def loss(params, batch):
        step = lambda x, w: (actigrad.tap(jnp.tanh(x @ w), "h"), None)
        return jnp.sum(jax.lax.scan(jax.checkpoint(step), batch["x"], params)[0])

    def bytes_of(sites):
        run = jax.jit(actigrad.capture(loss, sites=sites, parameters=False, inputs=False))
        memory = run.lower(weights, {"x": jnp.ones((512, 64))}).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    one = 512 * 64 * 4
    assert bytes_of("h") - bytes_of("h[-2:]") > 24 * one


def test_a_remat_policy_that_goes_by_name_finds_its_names_under_capture():
    """Forward, backward, and what is computed again: 2 products where `h` is kept, 3 where it is not."""

    def products(policy):
        def body(x, w):
            return jnp.sin(checkpoint_name(x @ w, "h"))

        loss = lambda params, batch: jnp.sum(jax.checkpoint(body, policy=policy)(batch, params))
        captured = actigrad.capture(loss, inputs=False)
        return str(jax.make_jaxpr(captured)(jnp.ones((3, 3)), jnp.ones((2, 3)))).count("dot_general")

    assert products(jax.checkpoint_policies.save_only_these_names("h")) == 2
    assert products(jax.checkpoint_policies.nothing_saveable) == 3
