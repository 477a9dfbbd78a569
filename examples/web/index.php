<?php
// The node describes itself, from /proc alone.
$read = fn(string $path): string => trim((string) @file_get_contents($path));
$memory = [];
foreach (preg_split('/\n/', $read('/proc/meminfo')) as $line) {
    if (preg_match('/^(\w+):\s+(\d+)/', $line, $field)) {
        $memory[$field[1]] = intdiv((int) $field[2], 1024);
    }
}
$seconds = (int) $read('/proc/uptime');
$uptime = sprintf('%d h %02d min %02d s', intdiv($seconds, 3600), intdiv($seconds, 60) % 60, $seconds % 60);
exec('ip -brief address show scope global 2>/dev/null', $addresses);
$image = 0;
foreach (glob('/sys/block/loop*/loop/backing_file') as $loop) {
    $image += intdiv((int) $read(dirname($loop, 2) . '/size') * 512, 1 << 20);
}
$total = max(1, $memory['MemTotal'] ?? 1);
$available = $memory['MemAvailable'] ?? 0;
$used = max(0, $total - $available - $image);
$root = '';
foreach (file('/proc/mounts') as $mount) {
    [, $point, $type] = explode(' ', $mount);
    $root = $point === '/' ? $type : $root;
}
$report = json_decode($read('/run/rootbeam/report.json'), true);
if (str_starts_with($_SERVER['HTTP_ACCEPT'] ?? '', 'text/plain')) {
    header('Content-Type: text/plain; charset=utf-8');
    $lines = [
        'host' => gethostname(),
        'addresses' => implode('; ', array_map(fn($line) => preg_replace('/\s+/', ' ', trim($line)), $addresses)) ?: 'none',
        'kernel' => php_uname('r'),
        'uptime' => $uptime,
        'root' => $root,
        'memory' => "$total MiB: image $image, system $used, available $available",
    ];
    foreach ($lines as $name => $value) {
        printf("%-10s %s\n", $name, $value);
    }
    exit;
}
$e = fn($text): string => htmlspecialchars((string) $text);
$share = fn(int $part): string => number_format(100 * $part / $total, 1, '.', '') . '%';
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title><?= $e(gethostname()) ?></title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem; color: #1d2433; background: #f6f7f9; }
  h1 { font-size: 1.6rem; margin-bottom: 0 } p { margin-top: .2rem; color: #5b6472 }
  table { border-collapse: collapse; width: 100%; background: #fff; border-radius: .5rem; box-shadow: 0 1px 3px #0002 }
  th, td { text-align: left; padding: .5rem .8rem; border-top: 1px solid #edeff2; vertical-align: top } tr:first-child > * { border: 0 }
  th { width: 9rem; font-weight: 600; color: #5b6472 }
  .bar { display: flex; height: 1.6rem; border-radius: .4rem; overflow: hidden; background: #dfe4ea; margin: .3rem 0 }
  .bar i { display: block } .image { background: #3d6fb6 } .used { background: #e0883a }
  small b { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin: 0 .3em 0 .8em }
</style>
<h1><?= $e(gethostname()) ?> lives in RAM</h1>
<p>Booted over the network by rootbeam; it needs neither disk nor server any more.</p>
<table>
  <tr><th>Host<td><?= $e(gethostname()) ?>
  <tr><th>Addresses<td><?= implode('<br>', array_map($e, $addresses)) ?: 'none' ?>
  <tr><th>Kernel<td><?= $e(php_uname('r')) ?>
  <tr><th>Uptime<td><?= $e($uptime) ?>
  <tr><th>Root<td><?= $e($root) ?>
  <tr><th>Memory<td>
    <div class="bar"><i class="image" style="width: <?= $share($image) ?>"></i><i class="used" style="width: <?= $share($used) ?>"></i></div>
    <small><b class="image"></b>image <?= $image ?> MiB <b class="used"></b>system <?= $used ?> MiB <b style="background: #dfe4ea"></b>available <?= $available ?> MiB of <?= $total ?> MiB</small>
<?php if (is_array($report)): ?>
  <tr><th>Boot report<td><details><summary>report.json</summary><pre><?= $e(json_encode($report, JSON_PRETTY_PRINT | JSON_UNESCAPED_SLASHES)) ?></pre></details>
<?php endif ?>
</table>
</html>
