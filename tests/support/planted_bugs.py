"""Known bugs as wrong edits, each with the test that must fail for it; `mutations.py` plants them."""

from __future__ import annotations

from typing import NamedTuple


class Bug(NamedTuple):
    """One wrong edit, and the test that must fail for it."""

    name: str
    file: str  # within metabench/
    old: str  # found once
    new: str
    test: str  # within tests/


QUADRATIC = "algorithms/test_quadratic.py::"
LIMITS = "algorithms/test_limits.py::"
LAWS = "algorithms/test_laws.py::"
ORACLES = "algorithms/test_oracles.py::"
CONFORMANCE = "algorithms/test_conformance.py::"
METRIC = "algorithms/test_metric.py::"
FAIR = "algorithms/test_fair_maml.py::"
SAMPLING = "algorithms/test_sampling_term.py::"

BUGS = [
    # the inner loop
    Bug(
        "second-order inner gradients are taken as constants", "algorithms/_inner_loop.py",
        'if derivative == "first":', 'if derivative in ("first", "second"):',
        QUADRATIC + "test_maml_is_the_power_of_i_minus_alpha_a_times_the_query_slope",
    ),
    Bug(
        "first-order inner gradients are differentiated", "algorithms/_inner_loop.py",
        'if derivative == "first":', 'if derivative == "never":',
        QUADRATIC + "test_fomaml_is_the_query_slope_at_the_adapted_point",
    ),
    Bug(
        "FOMAML is registered as second order", "algorithms/maml.py",
        'partial(task_loss, derivative="first")', 'partial(task_loss, derivative="second")',
        "algorithms/test_hand_numbers.py",
    ),
    Bug(
        "every inner step reuses the first step's gradient", "algorithms/maml.py",
        "direction, _ = inner.gradient(loss, fast,", "direction, _ = inner.gradient(loss, {**theta},",
        QUADRATIC + "test_maml_is_the_power_of_i_minus_alpha_a_times_the_query_slope",
    ),
    Bug(
        "inner gradients are never limited", "algorithms/_inner_loop.py",
        "return optim.clip(direction, clip), moments", "return direction, moments",
        QUADRATIC + "test_an_inner_gradient_is_limited_element_by_element",
    ),
    Bug(
        "steps that are computed again are recorded all the same", "algorithms/_checkpoint.py",
        "        with torch.no_grad():\n", "        with torch.enable_grad():\n",
        "algorithms/test_checkpoint.py::test_ten_steps_take_the_memory_of_one",
    ),
    Bug(
        "a step that is computed again forgets its first gradient", "algorithms/_checkpoint.py",
        "slopes.get(place) for place", "slopes.get(place) if place else None for place",
        "algorithms/test_checkpoint.py::test_the_meta_gradient_is_the_same",
    ),
    Bug(
        "evaluation takes as many steps as training", "algorithms/_inner_loop.py",
        "return h.inner_steps if h.eval_steps < 0 else h.eval_steps", "return h.inner_steps",
        QUADRATIC + "test_evaluation_takes_the_steps_asked_for",
    ),
    Bug(
        "the meta-gradient ignores how the support's moments come about", "nets/layers.py",
        "        return pooled, moments\n", "        return pooled, moments.detach()\n",
        ORACLES + "test_maml_and_fomaml_agree_with_higher_and_torchopt",
    ),
    # blocks
    Bug(
        "moments of blocks are averaged without their spread", "nets/kernels/cpu/__init__.py",
        "(share * (each - mean).square_().add_(torch.stack(variances))).sum(0)",
        "(share * torch.stack(variances)).sum(0)",
        "nets/test_layers.py::test_blocks_of_examples_make_no_difference",
    ),
    Bug(
        "an output of blocks that is computed again has no gradient of its own",
        "nets/kernels/cpu/__init__.py",
        "pairs.append((h * wide(line[0]), x[at], back))", "pass",
        "nets/test_layers.py::test_meta_gradient_equals_that_of_torchs_own_layers_at_odd_and_even_sizes",
    ),
    Bug(
        "a sum over blocks is that of the last block", "nets/kernels/cpu/kernels.py",
        "self.whole[name].add_(part) if name in self.whole else part", "part",
        "nets/test_layers.py::test_blocks_of_examples_make_no_difference",
    ),
    Bug(
        "what is rectified passes its whole gradient on", "nets/kernels/cpu/rectifying.py",
        "torch.ops.aten.threshold_backward(channels_last(of_g), images[at], 0)", "channels_last(of_g)",
        "nets/test_layers.py::test_rectify_has_the_derivatives_of_its_parts",
    ),
    # kernels for a GPU
    Bug(
        "kernels keep the last of pixels that tie", "nets/kernels/gpu/pooling.py",
        "is_better = (value > best)", "is_better = (value >= best)",
        "nets/kernels/test_kernels.py::test_of_pixels_that_tie_the_first_is_kept",
    ),
    Bug(
        "kernels take patches across the left border", "nets/kernels/gpu/convolutions.py",
        "& (column >= 0) &", "&",
        "nets/kernels/test_kernels.py::test_convolutions",
    ),
    Bug(
        "kernels average the moments of parts without their spread", "nets/kernels/gpu/pooling.py",
        "within + count[:, None] * apart * apart", "within",
        "nets/kernels/test_kernels.py::test_moments_of_many_parts_are_those_of_the_whole_far_from_zero",
    ),
    Bug(
        "kernels lose how the mean moves with what passes", "nets/kernels/gpu/rectifying.py",
        "(by_var * factor * 0.5 - by_scale) * root * whole", "0.0 * whole",
        "nets/kernels/test_kernels.py::test_rectify_and_its_gradients",
    ),
    Bug(
        "a GPU is asked whether a system has a solution", "algorithms/r2d2.py",
        "return x.T @ torch.linalg.lu_solve(factors, pivots, y)",
        "return x.T @ torch.linalg.solve(x @ x.T + ridge * identity, y)",
        "training/test_waiting.py::test_no_meta_step_waits_for_the_device",
    ),
    Bug(
        "tasks that fit are not remembered", "training/vectorise.py",
        "traces.fits[key] = fits", "pass",
        "training/test_vectorise.py::test_tasks_that_do_not_fit_are_halved_and_have_the_same_gradient",
    ),
    # ANIL and BOIL
    Bug(
        "ANIL adapts every layer", "algorithms/maml.py",
        'adapt=partial(adapt, part="head")', 'adapt=partial(adapt, part="all")',
        LIMITS + "test_anil_moves_the_head_alone_and_boil_the_body_alone",
    ),
    Bug(
        "BOIL adapts the head too", "algorithms/_inner_loop.py",
        '"body": lambda layer: layer != HEAD', '"body": lambda layer: True',
        LIMITS + "test_anil_moves_the_head_alone_and_boil_the_body_alone",
    ),
    Bug(
        "ANIL's inner loop hides the body from the meta-gradient", "algorithms/maml.py",
        "net.embed(theta, batch.x)[0]}", "net.embed(theta, batch.x)[0].detach()}",
        ORACLES + "test_anil_and_boil_agree_with_higher_where_other_rates_are_zero",
    ),
    # Alpha-MAML
    Bug(
        "alpha climbs its hypergradient", "algorithms/alpha_maml.py",
        "alpha_change = -h.alpha_lr", "alpha_change = h.alpha_lr",
        QUADRATIC + "test_two_updates_of_alpha_maml_move_both_rates_down_their_hypergradients",
    ),
    Bug(
        "beta climbs its hypergradient", "algorithms/alpha_maml.py",
        "beta_change = h.beta_lr", "beta_change = -h.beta_lr",
        QUADRATIC + "test_two_updates_of_alpha_maml_move_both_rates_down_their_hypergradients",
    ),
    Bug(
        "beta follows the gradient's dot with itself", "algorithms/alpha_maml.py",
        'trees.dot(gradient["theta"], state["direction"])', 'trees.dot(gradient["theta"], gradient["theta"])',
        LAWS + "test_alpha_maml_outer_rate_moves_by_the_dot_of_successive_gradients",
    ),
    Bug(
        "beta follows the dot of gradients where Adam is the rule", "algorithms/alpha_maml.py",
        '"direction": direction}', '"direction": gradient["theta"]}',
        LAWS + "test_alpha_maml_outer_rate_under_adam_moves_by_the_dot_with_adams_last_direction",
    ),
    Bug(
        "dots have the wrong sign", "algorithms/alpha_maml.py",
        "w - zero * g.detach()", "w + zero * g.detach()",
        QUADRATIC + "test_alpha_maml_surrogate_hypergradients_are_minus_the_dots",
    ),
    Bug(
        "dot_last takes the first inner gradient", "algorithms/alpha_maml.py",
        "directions[-1:]", "directions[:1]",
        QUADRATIC + "test_alpha_maml_surrogate_hypergradients_are_minus_the_dots",
    ),
    Bug(
        "a change that is not finite reaches the rate", "algorithms/alpha_maml.py",
        "torch.where(skipped, torch.zeros_like(change), change)", "change",
        LAWS + "test_alpha_maml_safeguards_limit_and_are_logged",
    ),
    # Meta-SGD and MAML++
    Bug(
        "Meta-SGD does not learn its rates", "algorithms/meta_sgd.py",
        "w - a * g", "w - a.detach() * g",
        QUADRATIC + "test_meta_sgd_rates_of_elements_and_of_tensors",
    ),
    Bug(
        "every inner step takes the first step's learned rate", "algorithms/maml_pp.py",
        'pick(step, meta["alpha"])', 'pick(0, meta["alpha"])',
        QUADRATIC + "test_maml_pp_learns_one_rate_a_tensor_and_step",
    ),
    Bug(
        "every inner step takes the first step's norm weights", "algorithms/maml_pp.py",
        "{name: pick(step, params[name])", "{name: pick(0, params[name])",
        LIMITS + "test_slopes_of_all_steps_norm_weights_add_up_to_those_of_one_for_all",
    ),
    Bug(
        "query losses of early steps are not weighed", "algorithms/maml_pp.py",
        "loss + weight * step_loss", "loss + step_loss",
        QUADRATIC + "test_maml_pp_weighs_the_query_loss_after_every_step",
    ),
    Bug(
        "multi-step weights are annealed the wrong way round", "algorithms/maml_pp.py",
        "done = progress / h.multi_step_fraction", "done = 1 - progress / h.multi_step_fraction",
        LIMITS + "test_multi_step_weights_follow_the_published_table",
    ),
    Bug(
        "multi-step weights have no floor", "algorithms/maml_pp.py", "floor = 0.03 / n_steps", "floor = 0.0",
        LIMITS + "test_multi_step_weights_stop_at_their_floor",
    ),
    Bug(
        "derivative annealing starts with the second order", "algorithms/maml_pp.py",
        "progress < h.first_order_fraction", "progress >= h.first_order_fraction",
        LIMITS + "test_derivative_annealing_starts_as_fomaml_and_ends_as_maml",
    ),
    Bug(
        "running statistics are ignored in the inner loop at evaluation", "algorithms/maml_pp.py",
        "moments = pick(step, buffers) if buffers else None", "moments = None",
        LAWS + "test_running_statistics_of_each_step_are_used_at_evaluation",
    ),
    Bug(
        "queries ignore running statistics at evaluation", "algorithms/maml_pp.py",
        '    if buffers:\n        return {"params"', '    if False:\n        return {"params"',
        LAWS + "test_evaluation_under_running_statistics_judges_each_query_alone",
    ),
    Bug(
        "running statistics keep a tenth instead of moving by it", "algorithms/maml_pp.py",
        "MOMENTUM = 0.1", "MOMENTUM = 0.9",
        LAWS + "test_running_statistics_move_a_tenth_towards_what_each_step_saw",
    ),
    # other families
    Bug(
        "Reptile's loss is not halved", "algorithms/reptile.py",
        "return 0.5 * trees.dot(apart, apart)", "return trees.dot(apart, apart)",
        "algorithms/test_reptile.py::test_the_meta_gradient_is_theta_minus_phi_of_torchs_optimiser",
    ),
    Bug(
        "prototypical distances are not squared", "algorithms/protonet.py",
        ".square().sum(-1)", ".square().sum(-1).sqrt()",
        METRIC + "test_the_prototypical_loss_is_that_of_a_loop_over_queries_and_classes",
    ),
    Bug(
        "Proto-MAML's first bias has the wrong sign", "algorithms/_inner_loop.py",
        '"bias": -means.square()', '"bias": means.square()',
        METRIC + "test_proto_maml_without_inner_steps_is_the_prototypical_network",
    ),
    Bug(
        "ridge regression subtracts its penalty", "algorithms/r2d2.py",
        "+ ridge * identity", "- ridge * identity",
        METRIC + "test_ridge_weights_satisfy_the_normal_equations",
    ),
    Bug(
        "SNAIL's queries read each other", "algorithms/snail.py",
        "((column < row) & (column < n))", "(column < row)",
        "algorithms/test_snail.py::"
        "test_queries_that_share_their_steps_get_what_each_gets_at_the_end_of_its_own_sequence",
    ),
    Bug(
        "MANN reads its memory by keys of no length", "algorithms/mann.py",
        "F.normalize(keys, dim=-1)", "keys",
        "algorithms/test_mann.py::test_a_step_writes_reads_and_lets_usage_fade_by_the_papers_equations",
    ),
    Bug(
        "MANN writes over the rows that are used most", "algorithms/mann.py",
        "usage[None] < usage[:, None]", "usage[None] > usage[:, None]",
        "algorithms/test_mann.py::test_exactly_n_rows_are_used_least_and_they_are_the_least_used",
    ),
    Bug(
        "MANN's memory is not emptied before it is written", "algorithms/mann.py",
        "(1 - w_lu.sum(0))[:, None]", "1.0",
        "algorithms/test_mann.py::test_a_step_writes_reads_and_lets_usage_fade_by_the_papers_equations",
    ),
    Bug(
        "an example counts among those before it", "training/evaluate.py",
        ".tril(-1)", ".tril()",
        "training/test_instances.py::test_the_last_instance_is_the_queries_and_is_recorded",
    ),
    Bug(
        "SNAIL is shown the label of what it is asked", "algorithms/snail.py",
        "asked[n : n + 1]", 'learner["steps"][n : n + 1]',
        "training/test_instances.py::test_what_is_said_of_an_example_follows_from_those_before_it",
    ),
    Bug(
        "chance of kappa takes guesses for labels", "stats/classes.py",
        "shares.sum(1) @ shares.sum(0)", "shares.sum(1) @ shares.sum(1)",
        "stats/test_classes.py::test_kappa_is_sklearns_and_knows_chance",
    ),
    # other data
    Bug(
        "other bands keep the deviation of their own", "data/reading/scaling.py",
        "- new_mean) / new_scale", "- new_mean) / scale",
        "data/sets/test_bands.py::test_inputs_and_target_of_rows_move_between_moments_and_labels_stay",
    ),
    # domains
    Bug(
        "the picture of domains is of another row's", "report/html/pictures/domains.py",
        "(accuracies[name] - low)", "(shown[0] - low)",
        "report/html/test_domains.py::test_a_cell_is_the_stronger_the_more_is_right",
    ),
    # tasks that somebody else chose
    Bug(
        "queries of a list are its support", "data/tasks/listed.py",
        "for some in one.query]", "for some in one.support]",
        "data/tasks/test_listed.py::test_tasks_show_the_pictures_that_their_file_names",
    ),
    Bug(
        "a picture may be support and query of a list", "data/tasks/listed.py",
        "flat.count(example) > 1", "flat.count(example) > 2",
        "data/tasks/test_listed.py::test_all_that_is_wrong_is_told_at_once",
    ),
    # unlabelled images
    Bug(
        "the mask is applied twice", "algorithms/soft_kmeans.py",
        "* torch.sigmoid(-gamma * (d - beta))", "* torch.sigmoid(-gamma * (d - beta)) ** 2",
        "algorithms/test_unlabelled.py::test_the_mask_counts_once",
    ),
    Bug(
        "unlabelled images add nothing to the weight of a prototype", "algorithms/soft_kmeans.py",
        "total = belongs.sum(0) + weights.sum(0)", "total = belongs.sum(0)",
        "algorithms/test_unlabelled.py::test_of_blobs_far_apart_a_prototype_is_the_mean_of_all_of_its_class",
    ),
    Bug(
        "the distractors' cluster has no logarithm of its radius", "algorithms/soft_kmeans.py",
        "(-2 * log_r).exp() - log_r", "(-2 * log_r).exp() + log_r",
        "algorithms/test_unlabelled.py::"
        "test_the_cluster_is_a_normal_density_of_its_radius_at_the_origin_and_classes_are_of_radius_one",
    ),
    Bug(
        "gradients flow into pseudo-labels that are unsure", "algorithms/maml_semi.py",
        ".amax(-1) * is_sure(logits, threshold)", ".amax(-1)",
        "algorithms/test_unlabelled.py::"
        "test_pseudo_labels_are_the_likeliest_classes_of_sure_images_and_constants",
    ),
    Bug(
        "unlabelled images count from the first inner step", "algorithms/maml_semi.py",
        "reads and step >= h.warm_up", "reads",
        "algorithms/test_unlabelled.py::test_where_unlabelled_images_count_nothing_it_is_maml",
    ),
    Bug(
        "unlabelled images are drawn from labelled ones", "data/tasks/sampling.py",
        "(shape.unlabelled, ~labelled)", "(shape.unlabelled, labelled)",
        "data/tasks/test_labelled.py::test_an_example_has_a_label_in_every_task_or_in_none",
    ),
    Bug(
        "a class of the task passes for a distractor", "training/unlabelled.py",
        "(is_own, ~is_own)", "(~is_own, is_own)",
        "training/test_unlabelled.py::test_figures_and_what_was_taken_are_those_of_the_same_tasks",
    ),
    # what all of them stand on
    Bug(
        "query statistics leak where the support's are asked for", "algorithms/_inner_loop.py",
        'learner.get("moments")', "None",
        LAWS + "test_a_query_sees_other_queries_only_where_batch_norm_is_transductive",
    ),
    Bug(
        "queries leave the support set where they are to be normalised beside it",
        "algorithms/_inner_loop.py",
        'if "support" not in learner:', "if True:",
        LAWS + "test_a_query_sees_other_queries_only_where_batch_norm_is_transductive",
    ),
    Bug(
        "the meta-gradient is summed over tasks", "training/vectorise.py", "leaf / n_tasks", "leaf",
        QUADRATIC + "test_maml_is_the_power_of_i_minus_alpha_a_times_the_query_slope",
    ),
    Bug(
        "only the last chunk of tasks counts", "training/vectorise.py",
        "total = reduce(partial(trees.map, torch.add), parts)", "total = parts[-1]",
        LAWS + "test_order_of_tasks_and_chunk_size_do_not_matter",
    ),
    Bug(
        "autocast is let through", "training/vectorise.py",
        "and torch.is_autocast_enabled(device.type):", "and False:",
        CONFORMANCE + "test_autocast_is_refused_by_name[cpu-nearest_mean]",
    ),
    Bug(
        "Adam's moments are not corrected for their start", "algorithms/_outer_loop.py",
        "m_scale = 1 / (1 - beta1**step)", "m_scale = torch.ones_like(step)",
        LAWS + "test_adam_equals_torch_adam",
    ),
    Bug(
        "Adam turns learned scalars into float64",
        "algorithms/_outer_loop.py", "scale.to(x[0].dtype)", "scale",
        CONFORMANCE + "test_every_choice_and_switch_keeps_shapes_and_precision",
    ),
    Bug(
        "labels alternate where examples come class by class", "data/tasks/frozen.py",
        "labels.repeat_interleave(max_shots)", "labels.repeat(max_shots)",
        "data/tasks/test_frozen.py::test_gathered_images_are_the_indexed_ones_scaled_to_one",
    ),
    Bug(
        "support examples serve as queries", "data/tasks/frozen.py",
        "examples[:, :, max_shots : max_shots + n_query]", "examples[:, :, :n_query]",
        "data/tasks/test_sampling.py::test_unbalanced_support_has_the_whole_size_and_keeps_every_bound",
    ),
    Bug(
        "a task's classes leave their domain", "data/tasks/sampling.py",
        "keys = keys.masked_fill(~torch.stack(source.groups)[choice], -torch.inf)", "pass",
        "data/tasks/test_sampling.py::test_within_a_domain_all_classes_are_of_one_and_domains_count_by_their_classes",
    ),
    Bug(
        "outputs for more ways compete in tasks of fewer", "nets/__init__.py",
        "linear = head(params, features)[:, : net.way]", "linear = head(params, features)",
        "data/tasks/test_sampling.py::test_a_task_of_fewer_ways_sees_a_network_cut_to_its_ways",
    ),
    Bug(
        "a step is replayed in a phase that it was not recorded in", "training/vectorise.py",
        "identity(model), numbers.static\n    size", "identity(model)\n    size",
        "training/graphs/test_trace.py::test_every_phase_of_maml_pp_and_every_shape_has_a_recording_of_its_own",
    ),
    Bug(
        "the query is distorted where the support was asked for", "data/tasks/augment.py",
        'if "support" in halves:', 'if "query" in halves:',
        "data/tasks/test_augment.py::test_only_the_named_half_is_distorted",
    ),
    # the leaderboard
    Bug(
        "what is of both seed and task counts twice", "stats/crossed.py",
        "spread - noise_off * sum(map(_noise, sides))", "spread",
        "stats/test_crossed.py::test_effects_of_seeds_alone_are_their_variance_and_noise_is_taken_off",
    ),
    Bug(
        "classes have no part in their interval", "stats/classes.py",
        "variance = effect * classes.weight + noise / n_tasks", "variance = noise / n_tasks",
        "stats/test_classes.py::test_variance_and_degrees_of_freedom_are_those_of_the_whole_matrices",
    ),
    Bug(
        "the surest of many tests is adjusted least", "stats/compare.py",
        "np.arange(len(order), 0, -1)", "np.arange(1, len(order) + 1)",
        "stats/test_compare.py::test_holms_adjustment_is_that_of_the_textbook",
    ),
    Bug(
        "a low error looks like optimism", "leaderboard/__init__.py",
        "metric.sign * float(before - row[metric.name])", "float(before - row[metric.name])",
        "leaderboard/test_scores.py::test_of_errors_the_lower_is_better",
    ),
    Bug(
        "the best row of a folder is chosen by its test", "leaderboard/versus.py",
        'looked = [side for side in tested if side[0][f"{when}_{metric}"] is not None]',
        "return max(tested, key=lambda side: metric.sign * float(side[0][metric.name]))",
        "leaderboard/test_versus.py::test_the_best_row_of_each_folder_is_chosen_without_the_test",
    ),
    # the number on the board is the number that a user gets
    Bug(
        "queries that are asked one at a time are scored together", "training/evaluate.py",
        "(x) if is_transductive else outputs", "(x) if False else outputs",
        "training/test_evaluate.py::"
        "test_one_at_a_time_is_what_a_loop_over_single_queries_scores[transductive-protonet]",
    ),
    Bug(
        "a confusion counts the guess as the label", "training/evaluate.py",
        'scores["confusion"] = true.T @ guess', 'scores["confusion"] = guess.T @ true',
        "training/test_evaluate.py::test_classes_and_confusions_add_up_to_the_accuracy",
    ),
    Bug(
        "classes are confused the other way round", "training/evaluate.py",
        "label, guess = np.ix_(", "guess, label = np.ix_(",
        "training/test_evaluate.py::test_the_worst_confusion_is_the_one_that_was_planted",
    ),
    Bug(
        "an interval of shares has no ends", "stats/intervals.py",
        "    if scale is None:\n        return mean - half", "    if True:\n        return mean - half",
        "leaderboard/test_scores.py::test_no_bound_on_a_board_passes_0_or_100_percent",
    ),
    Bug(
        "the board asks for intervals without ends", "leaderboard/scores.py",
        "stats.seeds_and_tasks(x, metric.scale)", "stats.seeds_and_tasks(x)",
        "leaderboard/test_scores.py::test_no_bound_on_a_board_passes_0_or_100_percent",
    ),
    Bug(
        "who is behind may be the best", "leaderboard/scores.py",
        'is_behind = metric.sign * seen["difference"] < 0',
        'is_behind = metric.sign * seen["difference"] > 0',
        "leaderboard/test_scores.py::test_rows_that_may_be_the_best_are_those_that_no_other_surely_beats",
    ),
    # what is kept
    Bug(
        "a checksum is cut off and not compared", "storage/files.py",
        "if end[1].decode() not in (_sum(before + body), _sum(body)):", "if False:",
        "storage/test_files.py::test_a_changed_digit_is_noticed_wherever_it_stands",
    ),
    Bug(
        "a line takes in nothing of the line before it", "storage/files.py",
        "_sum(before + body.encode())", "_sum(body.encode())",
        "storage/test_files.py::test_a_line_that_is_gone_or_in_another_place_is_noticed",
    ),
    Bug(
        "a driver whose number is no process here counts as gone", "storage/remote/lease.py",
        'if not lease.get("free"):\n        say',
        'if not os.path.exists(f"/proc/{lease.get(\'pid\')}"):\n        lease["free"] = True\n'
        '    if not lease.get("free"):\n        say',
        "storage/remote/test_lease.py::"
        "test_a_live_driver_in_another_container_with_the_name_of_this_machine_is_not_taken_over",
    ),
    # the report
    Bug(
        "who costs more for the same stands on the front", "report/html/pictures/leaderboard.py",
        "sign * point.figure > sign * kept[-1].figure", "sign * point.figure >= sign * kept[-1].figure",
        "report/html/test_reading.py::test_the_front_is_whom_nobody_as_cheap_beats",
    ),
    Bug(
        "names are put into the page as they are", "report/html/page.py",
        "autoescape=True", "autoescape=False",
        "report/test_report.py::test_markup_in_names_and_errors_is_text",
    ),
    # how sure a learner is
    Bug(
        "the new task is not counted where sets are made", "stats/conformal.py",
        "(is_query.sum(1, keepdims=True) * (len(s) + 1))", "(is_query.sum(1, keepdims=True) * len(s))",
        "stats/test_conformal.py::test_one_query_a_task_is_split_conformal_prediction",
    ),
    Bug(
        "tasks weigh as many queries as they have where sets are made", "stats/conformal.py",
        "(is_query.sum(1, keepdims=True) * (len(s) + 1))", "(is_query.sum() * (len(s) + 1) / len(s))",
        "stats/test_conformal.py::test_tasks_of_many_queries_do_not_outvote_others",
    ),
    Bug(
        "queries that are all right make a learner certain", "stats/conformal.py",
        "return float(rights + (total", "return float(rights + 0 * (total",
        "stats/test_conformal.py::test_queries_that_are_all_right_make_nobody_certain",
    ),
    Bug(
        "a calibration of other weights is taken", "training/calibration.py",
        ' if text.get("weights") == _digest(folder) else None', "",
        "training/test_calibration.py::"
        "test_training_again_makes_a_calibration_that_is_missing_damaged_or_of_other_weights",
    ),
    Bug(
        "meta-test judges sets without the temperature", "training/calibration.py",
        "scaled = logits.double() / temperature", "scaled = logits.double()",
        "predict/test_doubt.py::test_sets_are_as_large_and_right_as_meta_test_says",
    ),
    # freeze-thaw
    Bug(
        "the likelihood of a scale forgets the determinant", "search/journal/gaussian.py",
        " - np.log(np.diag(root)).sum()", "",
        "search/test_gaussian.py::test_the_likelihood_is_that_of_a_normal_distribution_and_the_best_factor_is_taken",
    ),
    Bug(
        "what runs is not counted as having scored", "search/journal/freeze.py",
        "    if len(running):", "    if not len(trials):",
        "search/test_freeze.py::test_who_runs_counts_as_having_scored_what_is_expected",
    ),
    Bug(
        "nothing is kept for the leader's way", "search/propose/searcher.py",
        "kept = way if is_kept else 0", "kept = 0",
        "search/test_freeze.py::test_the_leaders_way_to_the_full_budget_is_kept_for_it",
    ),
    Bug(
        "settings as good as tried are begun again", "search/journal/freeze.py",
        "is_new = alike.max(axis=0) < ALIKE", "is_new = alike.max(axis=0) <= 1",
        "search/test_freeze.py::test_a_late_bloomer_comes_back_and_settings_get_better_as_more_is_known",
    ),
    Bug(
        "the model chooses before it knows anything", "search/propose/searcher.py",
        "if is_early and any(", "if not is_early and any(",
        "search/test_freeze.py::test_the_first_settings_are_the_samplers",
    ),
    Bug(
        "one huge error sets the scale of all", "search/journal/freeze.py",
        'if ledger.objective.metric.scale == "share":', "if scores.size:",
        "search/test_freeze.py::test_one_huge_error_does_not_hide_the_others",
    ),
    Bug(
        "a rule that a space says is not taken", "search/folder/changes.py",
        'if "scheduler" in space', 'if "rule" in space',
        "search/test_changes.py::test_a_search_keeps_its_rule_where_a_space_does_not_say",
    ),
    # what to label
    Bug(
        "what was labelled may be labelled again", "acquisition/functions/_choose.py",
        "left = values.clamp(min=torch.finfo(values.dtype).min).masked_fill(taken, -torch.inf)",
        "left = values.clamp(min=torch.finfo(values.dtype).min)",
        "acquisition/test_functions.py::test_no_example_is_picked_twice_or_again",
    ),
    Bug(
        "a label's distances forget the mixed term", "acquisition/functions/_choose.py",
        "squares - 2 * x @ y.T", "squares - x @ y.T",
        "acquisition/test_functions.py::test_expected_error_equals_refitting_for_each_example_and_label",
    ),
    Bug(
        "a label goes to the largest lead", "acquisition/functions/uncertain.py",
        "second - first", "first - second",
        "acquisition/test_functions.py::test_the_unsure_are_picked_by_entropy_by_confidence_or_by_lead",
    ),
    Bug(
        "a label goes to who is surest", "acquisition/functions/uncertain.py",
        "1 - view.p.amax(-1)", "view.p.amax(-1)",
        "acquisition/test_functions.py::test_the_unsure_are_picked_by_entropy_by_confidence_or_by_lead",
    ),
    Bug(
        "a label's centres forget each other", "acquisition/functions/k_centre.py",
        "reached = torch.minimum(nearest, to_picks) if len(view.seen_x) else to_picks", "reached = nearest",
        "acquisition/test_functions.py::test_k_centre_picks_what_is_farthest_from_all_that_has_a_label",
    ),
    Bug(
        "a label's gradients forget the prototypes' lengths", "acquisition/functions/badge.py",
        " + (a * c.square().sum(-1)) @ a.T", "",
        "acquisition/test_functions.py::test_badge_knows_all_distances_without_an_outer_product",
    ),
    Bug(
        "a label is drawn by distance, not squared", "acquisition/functions/badge.py",
        "(nearest + LEAST).log() + gumbel[number]", "(nearest + LEAST).sqrt().log() + gumbel[number]",
        "acquisition/test_functions.py::test_badge_begins_with_the_largest_gradient_and_goes_on_by_squared_distance",
    ),
    Bug(
        "a label goes to a cluster that has one", "acquisition/functions/typiclust.py",
        "torch.where(done > 0, sizes - len(typical) - 1, sizes)", "sizes",
        "acquisition/test_functions.py::test_typiclust_takes_one_of_each_cluster_without_a_label_the_largest_first",
    ),
    Bug(
        "a label goes to the least typical", "acquisition/functions/typiclust.py",
        "typical.argsort().argsort()", "(-typical).argsort().argsort()",
        "acquisition/test_functions.py::test_typiclust_takes_one_of_each_cluster_without_a_label_the_largest_first",
    ),
    Bug(
        "a label that is expected moves its prototype all the way", "acquisition/functions/expected_error.py",
        "(n[:, None] * c + f[:, None]) / (n[:, None] + 1)", "(c + f[:, None]) / 2",
        "acquisition/test_functions.py::test_expected_error_equals_refitting_for_each_example_and_label",
    ),
    Bug(
        "a label's outcomes are all as likely", "acquisition/functions/expected_error.py",
        "return (view.p * unsure).sum(-1)", "return unsure.mean(-1)",
        "acquisition/test_functions.py::test_expected_error_equals_refitting_for_each_example_and_label",
    ),
    Bug(
        "a learnt label's second pick forgets the first", "acquisition/functions/learned.py",
        "        taken = taken.scatter(0, one[None], torch.ones_like(taken[:1]))\n    return total",
        "    return total",
        "acquisition/test_learned.py::test_probabilities_of_all_ordered_sets_add_up_to_one",
    ),
    Bug(
        "a learnt label's diversity is the largest sine", "acquisition/functions/learned.py",
        "torch.where(taken, apart, torch.inf).amin(-1)", "torch.where(taken, apart, -torch.inf).amax(-1)",
        "acquisition/test_learned.py::test_diversity_is_the_least_sine_to_what_was_taken",
    ),
    Bug(
        "a learnt label's baseline holds itself", "acquisition/learning.py",
        " * n_sets / (n_sets - 1)", "",
        "acquisition/test_learned.py::test_the_gradient_by_reinforce_is_that_of_the_expected_reward",
    ),
    Bug(
        "a learnt label is worth what came before it", "acquisition/learning.py",
        "torch.stack(rewards[1:])", "torch.stack(rewards[:-1])",
        "acquisition/test_learned.py::test_a_trajectory_is_worth_what_follows_it",
    ),
    Bug(
        "a label of a distractor is one of the task's classes", "acquisition/pools.py",
        "labels.masked_fill(labels >= way, NO_CLASS)", "labels % way",
        "acquisition/test_rounds.py::test_a_pool_has_each_class_as_often_as_its_skew_says",
    ),
    Bug(
        "a label that helps least is the oracle's", "acquisition/rounds.py",
        "score < score.amax(1, keepdim=True)", "score > score.amin(1, keepdim=True)",
        "acquisition/test_rounds.py::test_the_oracle_is_ahead_of_all_after_one_label",
    ),
    Bug(
        "moments are those of what has a label", "acquisition/pools.py",
        "net.embed(params, around)[1] if moments is None else moments", "moments",
        "acquisition/test_rounds.py::test_a_label_changes_no_moments",
    ),
    Bug(
        "a pool's labels forget its order", "acquisition/pools.py",
        "labels = indices.order // per_class", "labels = indices.order.sort().values // per_class",
        "acquisition/test_rounds.py::test_a_pool_holds_other_pictures_of_the_classes_in_random_order",
    ),
    Bug(
        "gains of labels are of other tasks", "acquisition/table.py",
        "stats.paired(a[None], b[None]", "stats.paired(a[None], b[None, ::-1] * 0",
        "acquisition/test_labelling.py::test_gains_are_paired_over_tasks",
    ),
    # control
    Bug(
        "RL2 is paid for a batch alone, and not for those that read it", "algorithms/rl2.py",
        "gamma**left * following)", "0 * gamma**left * following)",
        "algorithms/test_rl2.py::test_the_expected_meta_gradient_is_that_of_the_return_of_all_batches",
    ),
    Bug(
        "RL2 reads on after an end", "algorithms/rl2.py",
        "is_on = y.is_on[:, time, None] > 0", "is_on = y.is_on[:, time, None] > -1",
        "algorithms/test_rl2.py::test_memory_is_that_of_torchs_lstm_and_does_not_see_what_follows_an_end",
    ),
    Bug(
        "RL2's value is that of returns as they are", "algorithms/rl2.py",
        "(following - buffers[\"mean\"]) / scale", "(following - buffers[\"mean\"])",
        "algorithms/test_rl2.py::test_the_expected_meta_gradient_is_that_of_the_return_of_all_batches",
    ),
    Bug(
        "an action's probability is averaged over its numbers", "core/control.py",
        "- 0.5 * math.log(2 * math.pi)).sum(-1)", "- 0.5 * math.log(2 * math.pi)).mean(-1)",
        "core/test_control.py::test_probabilities_are_those_of_torchs_own_distributions",
    ),
    Bug(
        "dice forgets what came before", "core/control.py",
        "now.exp() - (now - ratio).exp()", "ratio.exp() - 1",
        "core/test_control.py::test_over_three_steps_dice_alone_has_the_second_derivative_of_the_return",
    ),
    Bug(
        "a ratio of probabilities is their logarithm", "core/control.py",
        "mean_over_steps(_log_ratio(outputs, y).exp() *", "mean_over_steps(_log_ratio(outputs, y) *",
        "core/test_control.py::test_in_a_bandit_only_the_likelihood_lacks_a_part_of_the_second_derivative",
    ),
    Bug(
        "an advantage leaves out the value of the state", "training/rollouts.py",
        "(reward + gamma * following - value)", "(reward + gamma * following)",
        "training/test_rollouts.py::test_generalised_advantages_are_discounted_sums_of_temporal_differences",
    ),
    Bug(
        "the state after an end has a value", "training/rollouts.py",
        "discounted(reward, gamma), is_on) * is_on", "discounted(reward, gamma), is_on)",
        "training/test_rollouts.py::test_generalised_advantages_are_discounted_sums_of_temporal_differences",
    ),
    Bug(
        "nobody stops at the goal", "training/rollouts.py",
        "is_on = is_on * (1 - done)", "is_on = is_on * (1 - 0 * done)",
        "training/test_rollouts.py::test_published_goals_give_the_returns_that_are_known_of_them",
    ),
    Bug(
        "every inner step descends what the first one did", "algorithms/_inner_loop.py",
        "trees.unflatten([leaf[step] for leaf in leaves], form)",
        "trees.unflatten([leaf[0] for leaf in leaves], form)",
        "training/test_rollouts.py::test_each_inner_step_descends_what_was_done_after_the_step_before",
    ),
    Bug(
        "a step may be of any length", "data/sets/navigation.py",
        "(SPEED * action).clamp(-SPEED, SPEED)", "SPEED * action",
        "data/sets/test_environments.py::test_a_walk_is_as_fast_as_it_may_be_and_ends_at_the_goal",
    ),
    Bug(
        "an arm pays more rarely than it says", "data/sets/bandit.py",
        "chance[0] < chances", "chance[0] + 0.05 < chances",
        "data/sets/test_environments.py::test_an_arm_pays_as_often_as_its_chance_says",
    ),
    Bug(
        "a pair of state and action is another's", "data/sets/tabular.py",
        "(state * n_actions + action)[None]", "(action * n_states + state)[None]",
        "data/sets/test_environments.py::test_transitions_and_rewards_are_those_of_the_table",
    ),
    Bug(
        "a limited ratio costs no more than the limit", "core/control.py",
        "(ratio * y.advantage).minimum(within * y.advantage)", "within * y.advantage",
        "training/test_again.py::test_past_the_limit_a_ratio_gains_nothing_and_still_costs",
    ),
    Bug(
        "a divergence is taken from the other policy", "core/control.py",
        "(old.exp() * (old - new)).sum(-1)", "(new.exp() * (new - old)).sum(-1)",
        "training/test_again.py::test_a_divergence_is_that_of_torchs_own_distributions",
    ),
    Bug(
        "the Fisher product forgets how KL curves", "training/again.py",
        "product: Tree = pull(curved)[0]", "product: Tree = pull(moved)[0]",
        "training/test_again.py::test_the_product_is_that_of_the_second_derivative_of_kl",
    ),
    Bug(
        "policies before an inner step are those after all", "training/again.py",
        "divergence(*after(model, scheduled, task, steps))",
        "divergence(*after(model, scheduled, task, n_steps))",
        "training/test_again.py::test_the_slope_is_that_of_limited_ratios_and_the_weighted_distance",
    ),
    Bug(
        "a trajectory is part of what its own return is compared with", "core/control.py",
        "(returns.sum() - returns) / max(len(returns) - 1, 1)", "returns.mean()",
        SAMPLING + "test_with_its_sampling_term_a_meta_gradient_is_that_of_the_return_after_adapting",
    ),
    Bug(
        "a task whose returns are alike outweighs all others", "core/control.py",
        "(after.scale.square() + gains.square().mean()).sqrt()", "after.scale",
        SAMPLING + "test_it_is_on_the_scale_of_advantages_and_no_task_outweighs_others",
    ),
    Bug(
        "the sampling term counts beside ratios", "algorithms/_policy_search.py",
        "if not optim.is_on(h.sampling_term):\n        return net", "if True:\n        return net",
        SAMPLING + "test_with_its_sampling_term_a_meta_gradient_is_that_of_the_return_after_adapting",
    ),
    Bug(
        "every inner step's trajectories are the first policy's", "algorithms/_policy_search.py",
        "nets.apply(net, adapted(step), batch.x)", "nets.apply(net, adapted(0), batch.x)",
        SAMPLING + "test_with_its_sampling_term_a_meta_gradient_is_that_of_the_return_after_adapting",
    ),
    Bug(
        "a step leads as far as twice the KL", "algorithms/_policy_search.py",
        "(2 * h.max_kl / trees.dot", "(4 * h.max_kl / trees.dot",
        "training/test_again.py::test_a_trust_region_step_is_the_natural_gradient_to_its_edge",
    ),
    Bug(
        "a step that raises the loss is taken", "algorithms/_policy_search.py",
        "if loss < first and kl <=", "if kl <=",
        "training/test_again.py::test_where_no_step_lowers_the_loss_nothing_moves",
    ),
    Bug(
        "policies that hardly move are held back more", "algorithms/_policy_search.py",
        "2.0 if kl > APART * target else 0.5", "2.0 if kl < APART * target else 0.5",
        "training/test_again.py::test_the_weight_of_a_distance_follows_it",
    ),
    Bug(
        "a pole turns as a point at its end", "data/sets/cartpole.py",
        "(half * (4 / 3 - mass", "(half * (2 - mass",
        "data/sets/test_environments.py::test_energy_grows_by_the_work_that_is_done",
    ),
    Bug(
        "a rod turns as a point at its end", "data/sets/pendulum.py",
        "3 / (mass * length**2) * torque", "1 / (mass * length**2) * torque",
        "data/sets/test_environments.py::test_energy_grows_by_the_work_that_is_done",
    ),
    Bug(
        "progress beside the right corner is paid", "data/sets/navigation_sparse.py",
        "(moved * goal > 0).all()", "(moved * goal > 0).any()",
        "data/sets/test_environments.py::test_only_progress_outside_and_towards_the_nearest_corner_is_paid",
    ),
    Bug(
        "the share of the oracle counts from zero", "leaderboard/returns.py",
        "(mine - chance) / (best - chance)", "mine / best",
        "leaderboard/test_returns.py::test_chance_is_no_share_of_the_oracle_and_the_best_is_all_of_it",
    ),
    Bug(
        "the best return forgets a step", "data/sets/navigation.py",
        "torch.arange(1, horizon + 1,", "torch.arange(2, horizon + 1,",
        "data/sets/test_environments.py::test_the_best_return_is_that_of_the_shortest_way_and_of_the_best_arm",
    ),
    # fairness
    Bug(
        "rates are means over the rows of both groups", "algorithms/fair_maml.py",
        "rest, protected = members @ p / sizes.clamp(min=1)", "rest, protected = members @ p / len(p)",
        FAIR + "test_more_rows_of_the_others_change_nothing_as_they_do_in_the_authors_code",
    ),
    Bug(
        "the softmax is taken twice", "algorithms/fair_maml.py",
        "p = outputs.softmax(-1)[:, 1]", "p = outputs.softmax(-1).softmax(-1)[:, 1]",
        FAIR + "test_what_is_published_is_one_less_the_mean_probability_of_the_protected",
    ),
    Bug(
        "a group that is not there pays as if none of it were granted anything", "algorithms/fair_maml.py",
        "torch.where(is_defined, term, torch.zeros_like(term))", "term",
        FAIR + "test_a_group_that_is_not_there_costs_nothing_and_moves_nothing",
    ),
    Bug(
        "a pooled ratio is a mean of tasks' ratios", "stats/fairness.py",
        "ratio + (numerator - ratio * denominator) / whole", "numerator / np.maximum(denominator, 1)",
        "stats/test_fairness.py::test_pooled_measures_are_those_of_fairlearn_on_all_rows",
    ),
    Bug(
        "the influence of a ratio forgets its denominator", "stats/fairness.py",
        "(low - least - least / most * (high - most)) / most", "(low - least) / most",
        "stats/test_fairness.py::test_each_measure_goes_as_its_tasks_say_to_first_order",
    ),
    Bug(
        "support sets may lack a label", "data/tasks/sampling.py",
        "    if split.labels:\n", "    if not split.labels:\n",
        "data/sets/test_groups.py::test_every_support_set_has_a_row_of_each_label_and_is_otherwise_drawn_as_ever",
    ),
    Bug(
        "who is protected turns the wrong way", "data/sets/zafar.py",
        "(densities[0] - densities[1]).sigmoid()", "(densities[1] - densities[0]).sigmoid()",
        "data/sets/test_groups.py::test_the_plane_ties_the_group_to_the_outcome_by_its_angle",
    ),
    Bug(
        "the median of crime is of all states", "data/sets/communities.py",
        'frame.groupby(STATE)[CRIME].transform("median")', "frame[CRIME].median()",
        "data/sets/test_groups.py::test_communities_are_what_is_known_of_them",
    ),
    # cells
    Bug(
        "the cell before last is halved by means", "nets/cells.py",
        "before = F.max_pool2d(before, 2)", "before = F.avg_pool2d(before, 2)",
        "nets/test_nets.py::test_a_network_equals_the_same_one_of_torchs_own_modules",
    ),
    Bug(
        "an operation has no ReLU", "nets/cells.py",
        "return F.relu(x)", "return x",
        "nets/test_cells.py::test_the_way_of_all_cells_leads_where_conv4s_own_does",
    ),
    Bug(
        "the edges of a node keep their order", "core/config/genotype.py",
        "tuple(sorted(Edge(e.operation, numbers[e.state]) for e in kept[node]))",
        "tuple(Edge(e.operation, numbers[e.state]) for e in kept[node])",
        "nets/test_cells.py::test_the_order_of_edges_and_of_nodes_makes_no_other_cell",
    ),
    Bug(
        "nodes that nobody reads are built", "core/config/genotype.py",
        "if genotype.output == ALL or not nodes:", "if nodes or genotype.output == ALL:",
        "nets/test_cells.py::test_nodes_that_the_output_does_not_need_have_no_parameters",
    ),
    Bug(
        "what is too large is trained, and nothing else", "search/propose/feasible.py",
        "n_parameters <= most", "n_parameters >= most",
        "search/test_networks.py::test_what_learns_more_than_the_most_is_written_down_and_never_trained",
    ),
    Bug(
        "a trial has the default of what it sampled of its network", "core/config/network_space.py",
        "for name in names if name in values}", "for name in names[:0] if name in values}",
        "search/test_networks.py::test_each_trial_has_the_network_that_was_sampled_for_it",
    ),
    Bug(
        "cells begin anew in each stage", "search/propose/study.py",
        "{**self.settings[trial.number], NODES: n_nodes}", "{NODES: n_nodes}",
        "search/test_growing.py::test_the_best_grow_first_by_nodes_that_come_after_their_own",
    ),
    Bug(
        "a stage counts nodes that no output needs", "search/propose/study.py",
        "return 0 if cell is None else len(cell.nodes)", "return int(sampled.get(NODES, 0))",
        "search/test_growing.py::test_each_stage_has_an_equal_share_of_what_is_trained",
    ),
    Bug(
        "what has grown too large stands in the way", "search/propose/growing.py",
        "most -= not grown or any(one.status != INFEASIBLE for one in grown)", "most -= 1",
        "search/test_growing.py::test_a_grown_one_that_is_too_large_makes_way_for_the_next",
    ),
    Bug(
        "a half-cheetah that is lost begins anew", "data/sets/half_cheetah.py",
        "|= mujoco.mjtDisableBit.mjDSBL_AUTORESET", "|= 0",
        "data/sets/test_environments.py::"
        "test_a_half_cheetah_that_is_lost_does_not_begin_anew_and_leaves_the_others_alone",
    ),
    Bug(
        "out of a cell something grows again where large ones lack a setting", "search/propose/growing.py",
        "large[name] == small[name] for name in (small.keys() & large.keys()) - {NODES}",
        "large.get(name) == small[name] for name in small.keys() - {NODES}",
        "search/test_growing.py::test_out_of_one_grows_one_where_small_cells_have_a_setting_that_large_ones_lack",
    ),
    Bug(
        "a setting in place of a repeated one is a trial more for samplers", "search/propose/study.py",
        "        return self._note(asked, other)\n", "        return self._give(other)\n",
        "search/test_growing.py::test_a_search_is_the_same_in_any_process_and_when_it_is_stopped_in_any_stage",
    ),
    Bug(
        "a sampler is asked on and on for what is too large", "search/propose/study.py",
        "if in_vain >= MOST_IN_VAIN:", "if in_vain < 0:",
        "search/test_growing.py::test_five_in_a_row_that_are_too_large_are_followed_by_random_ones",
    ),
    Bug(
        "the picture of a cell leaves a node out of its output", "report/html/pictures/cells.py",
        "for state in range(INPUTS, last) if is_joined", "for state in range(INPUTS + 1, last) if is_joined",
        "report/html/test_networks.py::test_a_line_runs_from_what_is_read_to_the_node_that_reads_it",
    ),
    # regions instead of classes
    Bug(
        "a region counts as one figure, however few tasks it has", "stats/domains.py",
        "@ belongs * len(names) / len(domains)", "@ belongs / belongs.sum(0)",
        "stats/test_domains.py::test_the_mean_is_of_all_tasks_and_names_and_order_do_not_matter",
    ),
    Bug(
        "a region's groups are kept apart from the first picture only", "data/tasks/sampling.py",
        "in groups.unbind(1):", "in groups[:, :1].unbind(1):",
        "data/test_regions.py::test_support_and_query_never_share_a_group",
    ),
    Bug(
        "queries of fixed labels are labelled by position, as in no region", "data/tasks/frozen.py",
        "task.query._replace(y=labels.gather(1, task.query.y)),", "task.query,",
        "data/test_regions.py::test_a_fixed_label_is_one_class_over_a_thousand_tasks_and_a_shuffled_one_is_any",
    ),
    Bug(
        "guesses of classes that a region's task lacks are taken for its own", "training/evaluate.py",
        "order = [*labels, *(", "order = [*sorted(labels, reverse=True), *(",
        "training/test_fixed_labels.py::test_confusions_of_fixed_labels_begin_with_the_task_s_classes",
    ),
    Bug(
        "bands are standardised by the regions of meta-test", "data/reading/scaling.py",
        '_examples(parts["meta_train"]).double()', '_examples(parts["meta_test"]).double()',
        "data/sets/test_bands.py::test_each_band_has_mean_0_and_deviation_1_over_meta_train_and_only_there",
    ),
]  # fmt: skip
